"""A 3-D U-Net, and a residual block of a diffusion U-Net, with any of the normalizations."""

from __future__ import annotations

import keras

from ..cases import NETWORKS
from .blocks import conv, norm_act

WIDTH = 32


def build_3d(norm: str, side: int) -> keras.Model:
    """The network of `examples/segmentation_3d.py`, twice as wide, up to the logits."""
    network = NETWORKS["unet3d"]
    volumes = keras.Input(network.shape(side))
    x, skips = volumes, []
    for level in range(2):
        x = _twice(norm, x, WIDTH << level)
        skips.append(x)
        x = keras.layers.MaxPooling3D()(x)
    x = _conv_norm_relu(norm, x, WIDTH << 2)
    for level in (1, 0):
        x = keras.layers.UpSampling3D()(x)
        x = keras.layers.Concatenate()([x, skips[level]])
        x = _conv_norm_relu(norm, x, WIDTH << level)
    return keras.Model(volumes, keras.layers.Conv3D(network.classes, 1, dtype="float32")(x))


def _twice(norm: str, x, filters: int):
    return _conv_norm_relu(norm, _conv_norm_relu(norm, x, filters), filters)


def _conv_norm_relu(norm: str, x, filters: int):
    return norm_act(norm, conv(norm, filters, 3, rank=3, padding="same", use_bias=False)(x))


def build_diffusion(norm: str, side: int) -> keras.Model:
    """A block of a diffusion U-Net, scaled and shifted by an embedding of the time.

    Kernels are plain, as in published networks.
    """
    network = NETWORKS["diffusion"]
    images, embedding = keras.Input(network.shape(side)), keras.Input((network.embedding,))
    channels = images.shape[-1]
    both = keras.layers.Dense(2 * channels)(keras.activations.silu(embedding))
    scale, shift = both[:, :channels], both[:, channels:]
    x = keras.layers.Conv2D(channels, 3, padding="same")(norm_act(norm, images, "silu"))
    x = norm_act(norm, x, "silu", scale, shift)
    x = keras.layers.Conv2D(channels, 3, padding="same")(x)
    x = keras.layers.Add()([x, images])
    return keras.Model([images, embedding], keras.layers.Activation("linear", dtype="float32")(x))
