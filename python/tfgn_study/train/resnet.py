"""The networks of a study that classify: those of `tfgn.models`."""

from __future__ import annotations

from typing import Any

import keras
from tensorflow_groupnorm import models

from ..config import RunConfig
from ..networks import MODELS
from ..norms import NORMS
from . import normalizations

#: Up to this side in pixels the stem of a published network keeps the resolution.
SMALL_IMAGE = 64


def body(config: RunConfig, images: keras.KerasTensor) -> keras.KerasTensor:
    """Returns the features of each image, `[N, channels]`.

    Args:
        config: the run; its `norm`, `groups`, `group_size`, `save_memory`, `model` and
            `bit_checkpoint` count.
        images: `[N, height, width, channels]` in [-1, 1].
    """
    return getattr(models, MODELS[config.model].function)(
        include_top=False,
        pooling="avg",
        input_tensor=images,
        norm=normalizations.of(config),
        weight_standardization=NORMS[config.norm].standardization,
        groups=config.groups,
        group_size=config.group_size,
        save_memory=config.save_memory,
        **_arguments(config, side=images.shape[1]),
    ).output


def _arguments(config: RunConfig, side: int) -> dict[str, Any]:
    """Returns the arguments that depend on the architecture, for images of this side in pixels."""
    architecture = MODELS[config.model]
    if architecture.blocks:
        return {
            "blocks": architecture.blocks,
            "widths": architecture.widths,
            "epsilon": 1e-3,
            # The gain makes up for the missing norm (arXiv 2101.08692).
            "gain": NORMS[config.norm].standardization == "nfnet",
            "padding": "same",
            "stem": "small",
            "zero_init_residual": False,
        }
    # The stem of the checkpoints is the large one.
    small = side <= SMALL_IMAGE and config.bit_checkpoint is None
    return {"stem": "small" if small else "large"}
