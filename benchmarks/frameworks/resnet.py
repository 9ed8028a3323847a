"""A ResNet50V2, with any of the normalizations."""

from __future__ import annotations

import keras

from .blocks import conv, norm_act

CLASSES = 1000


def build(norm: str, side: int) -> keras.Model:
    """The layers of `keras.applications.ResNet50V2`, up to the logits."""
    inputs = keras.Input((side, side, 3))
    x = keras.layers.ZeroPadding2D(3)(inputs)
    x = conv(norm, 64, 7, strides=2)(x)
    x = keras.layers.ZeroPadding2D(1)(x)
    x = keras.layers.MaxPooling2D(3, strides=2)(x)
    for width, blocks, strides in ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1)):
        for block in range(blocks):
            last = block == blocks - 1
            x = _block(norm, x, width, strides if last else 1, project=block == 0)
    x = keras.layers.GlobalAveragePooling2D()(norm_act(norm, x))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, dtype="float32")(x))


def _block(norm: str, x, width: int, strides: int, project: bool):
    shortcut = keras.layers.MaxPooling2D(1, strides=strides)(x) if strides > 1 else x
    x = norm_act(norm, x)
    if project:
        shortcut = conv(norm, 4 * width, 1, strides=strides)(x)
    x = norm_act(norm, conv(norm, width, 1, use_bias=False)(x))
    x = keras.layers.ZeroPadding2D(1)(x)
    x = norm_act(norm, conv(norm, width, 3, strides=strides, use_bias=False)(x))
    return keras.layers.Add()([shortcut, conv(norm, 4 * width, 1)(x)])
