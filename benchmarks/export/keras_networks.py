"""The networks in Keras."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow_groupnorm as tfgn

from .contenders import NETWORKS, UNET_WIDTHS

EPSILON = 1e-5


def build(network: str) -> keras.Model:
    """Returns a network with random weights."""
    keras.utils.set_random_seed(0)
    shapes = NETWORKS[network].inputs
    if network == "bit":
        inputs = keras.Input(shapes["images"], name="images")
        return tfgn.models.BiT_R50x1(input_tensor=inputs, classifier_activation=None)
    return _unet({name: keras.Input(shape, name=name) for name, shape in shapes.items()})


def _unet(inputs: dict) -> keras.Model:
    """A diffusion U-Net with one residual block a level, scaled and shifted by the time."""
    embedding, channels = _embed(inputs["time"]), inputs["images"].shape[-1]
    x, skips = _conv(inputs["images"], UNET_WIDTHS[0]), []
    for level, width in enumerate(UNET_WIDTHS):
        if level:
            x = _conv(x, width, strides=2)
        x = _block(x, embedding, width)
        skips.append(x)
    x = _block(x, embedding, UNET_WIDTHS[-1])
    for width, skip in zip(UNET_WIDTHS[-2::-1], skips[-2::-1], strict=True):
        x = _conv(keras.layers.UpSampling2D()(x), width)
        x = _block(keras.layers.Concatenate()([x, skip]), embedding, width)
    return keras.Model(list(inputs.values()), _conv(_norm_silu(x), channels))


def _embed(time):
    angles = time * np.geomspace(1, 100, UNET_WIDTHS[0] // 2, dtype="float32")
    x = keras.ops.concatenate([keras.ops.sin(angles), keras.ops.cos(angles)], axis=-1)
    for _ in range(2):
        x = keras.layers.Dense(4 * UNET_WIDTHS[0], activation="silu")(x)
    return x


def _norm_silu(x, **scale_and_shift):
    norm = tfgn.layers.GroupNormalization(32, epsilon=EPSILON, activation="silu")
    return norm(x, **scale_and_shift)


def _conv(x, width: int, strides: int = 1):
    # Padded as in PyTorch, whose "same" does not go with strides.
    x = keras.layers.ZeroPadding2D(1)(x)
    return keras.layers.Conv2D(width, 3, strides)(x)


def _block(x, embedding, width: int):
    shortcut = x if x.shape[-1] == width else keras.layers.Conv2D(width, 1)(x)
    x = _conv(_norm_silu(x), width)
    both = keras.layers.Dense(2 * width)(embedding)
    x = _norm_silu(x, scale=both[:, :width], shift=both[:, width:])
    return keras.layers.Add()([_conv(x, width), shortcut])
