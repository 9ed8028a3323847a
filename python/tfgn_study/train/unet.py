"""The network of a study that segments: a small U-Net with any of the normalizations."""

from __future__ import annotations

from typing import Any

import keras
from tensorflow_groupnorm.layers import GroupNormalization, StandardizedConv2D

from ..config import RunConfig
from ..networks import MODELS
from ..norms import NORMS
from . import normalizations


def body(config: RunConfig, images: keras.KerasTensor) -> keras.KerasTensor:
    """Returns the features of each pixel (Ronneberger et al., arXiv 1505.04597).

    Each level has two 3x3 convolutions, each with a normalization and a ReLU, on the way down and
    on the way up. The height and the width are halved by max pooling, and doubled by repetition.

    Args:
        config: the run; its `norm`, `groups`, `group_size` and `model` count.
        images: `[N, height, width, channels]`, of which a pixel is about 0 with a standard
            deviation of about 1.

    Returns:
        `[N, height, width, widths[0]]`.
    """
    widths = MODELS[config.model].widths
    x, skipped = images, []
    for level, width in enumerate(widths):
        if level > 0:
            skipped.append(x)
            x = keras.layers.MaxPooling2D(2, name=f"down{level + 1}_pool")(x)
        x = _convolutions(x, width, config, f"down{level + 1}")
    for level in reversed(range(len(widths) - 1)):
        x = keras.layers.UpSampling2D(2, name=f"up{level + 1}_repeat")(x)
        x = keras.layers.Concatenate(name=f"up{level + 1}_skip")([skipped[level], x])
        x = _convolutions(x, widths[level], config, f"up{level + 1}")
    return x


def _convolutions(
    x: keras.KerasTensor, width: int, config: RunConfig, prefix: str
) -> keras.KerasTensor:
    norm = normalizations.of(config)
    for number in (1, 2):
        x = _convolution(width, config, norm, f"{prefix}_conv{number}")(x)
        x = _normalized(x, config, norm, f"{prefix}_norm{number}")
    return x


def _convolution(width: int, config: RunConfig, norm: Any, name: str) -> keras.layers.Conv2D:
    options: dict[str, Any] = {
        "padding": "same",
        "use_bias": norm.use_bias if callable(norm) else norm is None,
        "kernel_initializer": "he_normal",
        "name": name,
    }
    variant = NORMS[config.norm].standardization
    if variant is None:
        return keras.layers.Conv2D(width, 3, **options)
    # The gain makes up for the missing norm (arXiv 2101.08692).
    return StandardizedConv2D(width, 3, variant=variant, gain=variant == "nfnet", **options)


def _normalized(x: keras.KerasTensor, config: RunConfig, norm: Any, name: str) -> keras.KerasTensor:
    """Returns `relu(norm(x))`."""
    options: dict[str, Any] = {"epsilon": 1e-3, "name": name}
    if callable(norm):
        options |= {"axis": -1, "gamma_initializer": "ones"}
        return norm(x, activation="relu", residual=None, **options)
    if norm == "gn":
        options |= {"group_size": config.group_size, "activation": "relu"}
        return GroupNormalization(config.groups, **options)(x)
    if norm == "bn":
        x = keras.layers.BatchNormalization(**options)(x)
    return keras.layers.Activation("relu", name=f"{name}_relu")(x)
