"""The networks of a study, with any of the normalizations."""

from __future__ import annotations

from typing import Any

import keras
from tensorflow_groupnorm import models

from ..config import RunConfig
from ..networks import MODELS
from ..norms import NORMS
from . import normalizations
from .normalizations import batch_norm

#: Up to this side in pixels the stem of a published network keeps the resolution.
SMALL_IMAGE = 64


def build(
    config: RunConfig, input_shape: tuple[int, int, int], classes: int, steps: int = 1
) -> keras.Model:
    """Builds the classifier that a run trains.

    Logits are float32, whatever the dtype policy.

    Args:
        config: the run; its `norm`, `groups`, `group_size`, `save_memory`, `model` and
            `bit_checkpoint` count.
        input_shape: height, width and channels of the images, whose pixels are in [0, 255].
        classes: number of logits.
        steps: number of training steps, in which batch renormalization reaches its limits.

    Returns:
        A model from images to logits. A model that is to be fine-tuned starts with logits of 0.
    """
    inputs = keras.Input(input_shape)
    body = getattr(models, MODELS[config.model].function)(
        include_top=False,
        pooling="avg",
        input_tensor=keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs),
        norm=normalizations.of(config),
        weight_standardization=NORMS[config.norm].standardization,
        groups=config.groups,
        group_size=config.group_size,
        save_memory=config.save_memory,
        **_arguments(config, side=input_shape[0]),
    )
    for layer in body.layers:
        if isinstance(layer, batch_norm.BatchRenormalization):
            layer.steps = steps
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = batch_norm.MOMENTUM
    initializer = "glorot_uniform" if config.bit_checkpoint is None else "zeros"
    head = keras.layers.Dense(classes, kernel_initializer=initializer, dtype="float32", name="head")
    return keras.Model(inputs, head(body.output), name=config.model)


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
