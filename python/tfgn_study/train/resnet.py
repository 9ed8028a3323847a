"""The networks of a study, with any of the normalizations."""

from __future__ import annotations

import keras
from tensorflow_groupnorm import models
from tensorflow_groupnorm.layers import GroupNormalization, StandardizedConv2D

from ..config import RunConfig
from ..networks import MODELS

#: As in the paper. The 0.99 of Keras forgets its initial values only after 500 steps, more than a
#: short training at a large batch has.
BN_MOMENTUM = 0.9

#: Up to this side in pixels the stem of a network of `tfgn.models` keeps the resolution.
SMALL_IMAGE = 64


def build(config: RunConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Builds the classifier that a run trains.

    The layout is that of `tfgn.models` or the ResNet for CIFAR-10 of He et al. (arXiv 1512.03385,
    section 4.2) with projection shortcuts: a 3x3 stem that keeps the resolution, stages of basic
    blocks, global average pooling. Logits are float32 whatever the dtype policy.

    Args:
        config: its `norm`, `groups`, `group_size` and `model`.
        input_shape: height, width and channels of the images, whose pixels are in [0, 255].
        classes: number of logits.

    Returns:
        A model from images to logits. One that is to be fine-tuned starts from logits of 0.
    """
    architecture = MODELS[config.model]
    inputs = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    body = _stages if architecture.function is None else _published
    x = body(x, architecture, config)
    initializer = "glorot_uniform" if config.bit_checkpoint is None else "zeros"
    logits = keras.layers.Dense(
        classes, kernel_initializer=initializer, dtype="float32", name="head"
    )(x)
    return keras.Model(inputs, logits, name=config.model)


def _published(x, architecture, config: RunConfig):
    """Returns the features of a network of `tfgn.models`."""
    has_groups = config.groups is not None or config.group_size is not None
    standardized = {"gn+ws": "bit", "ws": "nfnet"}
    build_body = getattr(models, architecture.function)
    body = build_body(
        include_top=False,
        pooling="avg",
        input_tensor=x,
        norm="gn" if has_groups else "bn" if config.norm == "bn" else None,
        weight_standardization=standardized.get(config.norm),
        groups=config.groups or 32,
        group_size=config.group_size,
        # Checkpoints have the stem that is for large images.
        stem="small" if x.shape[1] <= SMALL_IMAGE and config.bit_checkpoint is None else "large",
    )
    for layer in body.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BN_MOMENTUM
    return body.output


def _stages(x, architecture, config: RunConfig):
    """Returns the features of a ResNet for small images."""
    x = _norm(_conv(x, architecture.widths[0], 3, config), config, activation="relu")
    for stage, width in enumerate(architecture.widths):
        for block in range(architecture.blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _block(x, width, strides, config)
    return keras.layers.GlobalAveragePooling2D()(x)


def _block(x, width: int, strides: int, config: RunConfig):
    shortcut = x
    if strides > 1 or x.shape[-1] != width:
        shortcut = _norm(_conv(x, width, 1, config, strides), config)
    x = _norm(_conv(x, width, 3, config, strides), config, activation="relu")
    return _norm(_conv(x, width, 3, config), config, activation="relu", residual=shortcut)


def _conv(x, filters: int, kernel_size: int, config: RunConfig, strides: int = 1):
    options = {
        "filters": filters,
        "kernel_size": kernel_size,
        "strides": strides,
        "padding": "same",
        "use_bias": config.norm in ("ws", "none"),
        "kernel_initializer": "he_normal",
    }
    if config.norm == "gn+ws":
        return StandardizedConv2D(**options)(x)
    if config.norm == "ws":
        # Without a norm behind it, a standardized kernel needs the 1/sqrt(fan_in) of NFNets.
        return StandardizedConv2D(variant="nfnet", gain=True, **options)(x)
    return keras.layers.Conv2D(**options)(x)


def _norm(x, config: RunConfig, activation: str | None = None, residual=None):
    """Returns activation(norm(x) + residual), fused where the norm is a GroupNorm."""
    if config.norm in ("ln", "in", "gn", "gn+ws"):
        groups = {"groups": config.groups} if config.groups else {"group_size": config.group_size}
        return GroupNormalization(activation=activation, **groups)(x, residual=residual)
    if config.norm == "bn":
        x = keras.layers.BatchNormalization(momentum=BN_MOMENTUM)(x)
    if residual is not None:
        x = keras.layers.Add()([x, residual])
    return keras.layers.Activation(activation)(x)
