"""The network of a study that segments: a small U-Net with any of the normalizations."""

from __future__ import annotations

import keras
from tensorflow_groupnorm.models._parts import Style

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
    style = Style(
        *(normalizations.of(config), NORMS[config.norm].standardization),
        *(config.groups, config.group_size),
        epsilon=1e-3,
        stem="small",
        gain=NORMS[config.norm].standardization == "nfnet",
        padding="same",
    )
    widths = MODELS[config.model].widths
    x, skipped = images, []
    for level, width in enumerate(widths):
        if level > 0:
            skipped.append(x)
            x = keras.layers.MaxPooling2D(2, name=f"down{level + 1}_pool")(x)
        x = _convolutions(x, width, style, f"down{level + 1}")
    for level in reversed(range(len(widths) - 1)):
        x = keras.layers.UpSampling2D(2, name=f"up{level + 1}_repeat")(x)
        x = keras.layers.Concatenate(name=f"up{level + 1}_skip")([skipped[level], x])
        x = _convolutions(x, widths[level], style, f"up{level + 1}")
    return x


def _convolutions(x: keras.KerasTensor, width: int, style: Style, prefix: str) -> keras.KerasTensor:
    for number in (1, 2):
        x = style.conv(x, width, 3, name=f"{prefix}_conv{number}")
        x = style.normalize(x, activation="relu", name=f"{prefix}_norm{number}")
    return x
