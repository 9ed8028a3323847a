"""The network that a run trains, with any of the normalizations."""

from __future__ import annotations

import keras

from ..config import RunConfig
from ..networks import MODELS
from . import resnet, unet
from .normalizations import batch_norm


def build(
    config: RunConfig, input_shape: tuple[int, int, int], classes: int, steps: int = 1
) -> keras.Model:
    """Builds the network that a run trains.

    Logits are float32, whatever the dtype policy.

    Args:
        config: the run; its `norm`, `groups`, `group_size`, `save_memory`, `model` and
            `bit_checkpoint` count.
        input_shape: height, width and channels of the images, whose pixels are in [0, 255].
        classes: number of logits.
        steps: number of training steps, in which batch renormalization reaches its limits.

    Returns:
        A model from images to logits: `[N, classes]`, or `[N, height, width, classes]` of a network
        that segments. A model that is to be fine-tuned starts with logits of 0.
    """
    inputs = keras.Input(input_shape)
    segments = MODELS[config.model].segments
    body = unet.body if segments else resnet.body
    x = body(config, keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    initializer = "glorot_uniform" if config.bit_checkpoint is None else "zeros"
    options = {"kernel_initializer": initializer, "dtype": "float32", "name": "head"}
    if segments:
        logits = keras.layers.Conv2D(classes, 1, **options)(x)
    else:
        logits = keras.layers.Dense(classes, **options)(x)
    model = keras.Model(inputs, logits, name=config.model)
    for layer in model.layers:
        if isinstance(layer, batch_norm.BatchRenormalization):
            layer.steps = steps
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = batch_norm.MOMENTUM
    return model
