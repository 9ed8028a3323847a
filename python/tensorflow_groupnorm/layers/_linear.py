"""Which layers are linear in their input, up to a constant: their gradient does not need it."""

from __future__ import annotations

import keras

from ._standardized_base import Standardized
from ._weight_standardization import WeightStandardization

_KERAS = keras.layers

#: Their kernels' gradients need the input.
_WITH_KERNEL: tuple[type[keras.layers.Layer], ...] = (
    _KERAS.Conv1D,
    _KERAS.Conv2D,
    _KERAS.Conv3D,
    _KERAS.Conv1DTranspose,
    _KERAS.Conv2DTranspose,
    _KERAS.Conv3DTranspose,
    _KERAS.DepthwiseConv1D,
    _KERAS.DepthwiseConv2D,
    _KERAS.SeparableConv1D,
    _KERAS.SeparableConv2D,
    _KERAS.Dense,
    _KERAS.EinsumDense,
)

#: Without weights; the backward pass needs nothing of them but shapes.
_WITHOUT_WEIGHTS: tuple[type[keras.layers.Layer], ...] = (
    _KERAS.ZeroPadding1D,
    _KERAS.ZeroPadding2D,
    _KERAS.ZeroPadding3D,
    _KERAS.Cropping1D,
    _KERAS.Cropping2D,
    _KERAS.Cropping3D,
    _KERAS.AveragePooling1D,
    _KERAS.AveragePooling2D,
    _KERAS.AveragePooling3D,
    _KERAS.GlobalAveragePooling1D,
    _KERAS.GlobalAveragePooling2D,
    _KERAS.GlobalAveragePooling3D,
    _KERAS.UpSampling1D,
    _KERAS.UpSampling2D,
    _KERAS.UpSampling3D,
    _KERAS.Flatten,
    _KERAS.Identity,
    _KERAS.Permute,
    _KERAS.Reshape,
)


def why_not_linear(layer: keras.layers.Layer) -> str | None:
    """Says why a layer is not known to be linear in its input, up to a constant.

    Args:
        layer: any layer.

    Returns:
        A clause that begins with "it", such as "its activation relu is not linear"; None for a
        layer that is linear.
    """
    if isinstance(layer, WeightStandardization):
        return why_not_linear(layer.layer) or _why_not_alone(layer)
    if not _is_known(layer):
        return f"its class {type(layer).__name__} is not known to be linear"
    return _why_not_alone(layer)


def keeps_input(layer: keras.layers.Layer) -> bool:
    """Whether the backward pass of a linear layer needs its input: it has a kernel to train."""
    return not isinstance(layer, _WITHOUT_WEIGHTS)


def _is_known(layer: keras.layers.Layer) -> bool:
    """Whether the layer has the `call` of its base among the linear layers."""
    call = type(layer).call
    if isinstance(layer, Standardized) and call is Standardized.call:
        # What it calls is the `call` of its stock base.
        call = super(Standardized, layer).call.__func__
    # Pooling layers share a `call` with those that take the maximum.
    linear = _WITH_KERNEL + _WITHOUT_WEIGHTS
    return any(isinstance(layer, cls) and cls.call is call for cls in linear)


def _why_not_alone(layer: keras.layers.Layer) -> str | None:
    activation = getattr(layer, "activation", None)
    if activation not in (None, keras.activations.linear):
        name = getattr(activation, "__name__", type(activation).__name__)
        return f"its activation {name} is not linear: give the activation a layer of its own"
    if layer.activity_regularizer is not None:
        return "it has an activity regularizer"
    if layer.quantization_mode is not None:
        return f"it is quantized to {layer.quantization_mode}"
    return None
