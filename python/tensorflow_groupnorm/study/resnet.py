"""The network of the study: one ResNet for small images, with any of the normalizations."""

from __future__ import annotations

import keras

from ..layers import GroupNormalization, StandardizedConv2D
from .config import MODELS, RunConfig


def build(config: RunConfig, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Builds the classifier that a run trains.

    The layout is the ResNet for CIFAR-10 of He et al. (arXiv 1512.03385, section 4.2) with
    projection shortcuts: a 3x3 stem that keeps the resolution, stages of basic blocks, global
    average pooling.

    Args:
        config: its `norm`, `groups`, `group_size` and `model`.
        input_shape: height, width and channels of the images, whose pixels are in [0, 255].
        classes: number of logits.

    Returns:
        A model from images to logits.
    """
    architecture = MODELS[config.model]
    inputs = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = _norm(_conv(x, architecture.widths[0], 3, config), config, activation="relu")
    for stage, width in enumerate(architecture.widths):
        for block in range(architecture.blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _block(x, width, strides, config)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x), name=config.model)


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
        # As in the paper; the 0.99 of Keras forgets its initial values only after 500 steps, more
        # than a short training at a large batch has.
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
    if residual is not None:
        x = keras.layers.Add()([x, residual])
    return keras.layers.Activation(activation)(x)
