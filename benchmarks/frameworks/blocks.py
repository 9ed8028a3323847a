"""The layers of the networks, with any of the normalizations of `cases.STEP_NORMS`."""

from __future__ import annotations

import keras
import tensorflow_groupnorm as tfgn

GROUPS = 32


def _standardized(layer: type[keras.layers.Layer]) -> type[keras.layers.Layer]:
    """Weight standardization in stock Keras, as users write it without this package."""

    class Standardized(layer):
        def convolution_op(self, inputs, kernel):
            return super().convolution_op(inputs, tfgn.stock.standardize_weights(kernel))

    return Standardized


_CONVOLUTIONS = {
    2: {
        "gn+ws": _standardized(keras.layers.Conv2D),
        "ours": tfgn.layers.StandardizedConv2D,
    },
    3: {
        "gn+ws": _standardized(keras.layers.Conv3D),
        "ours": tfgn.layers.StandardizedConv3D,
    },
}
_PLAIN = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}


def conv(norm: str, filters: int, size: int, rank: int = 2, **options) -> keras.layers.Layer:
    return _CONVOLUTIONS[rank].get(norm, _PLAIN[rank])(filters, size, **options)


def norm_act(norm: str, x, activation: str = "relu", scale=None, shift=None):
    """Normalizes x, scales and shifts it per sample if asked to, and applies the activation."""
    if norm == "ours":
        layer = tfgn.layers.GroupNormalization(GROUPS, activation=activation)
        return layer(x) if scale is None else layer(x, scale=scale, shift=shift)
    if norm == "bn":
        x = keras.layers.BatchNormalization(epsilon=1.001e-5)(x)
    elif norm != "none":
        x = keras.layers.GroupNormalization(GROUPS)(x)
    if scale is not None:
        per_sample = keras.layers.Reshape((1,) * (x.ndim - 2) + (x.shape[-1],))
        x = x * (1 + per_sample(scale)) + per_sample(shift)
    return keras.layers.Activation(activation)(x)
