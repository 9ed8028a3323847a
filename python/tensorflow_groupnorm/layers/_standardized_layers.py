"""The stock layers that have a kernel, with that kernel standardized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from .._keras import register
from .._types import Activation, Constraint, Initializer, Regularizer
from ._standardized_base import Standardized, keyword_arguments


@register()
class StandardizedConv1D(Standardized, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with its kernel standardized at each call.

    Variables, saved files, precision and errors are as described for `StandardizedConv2D`.

    Args:
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weight `gain`, initially ones).
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. All other arguments
            are those of the stock layer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**keyword_arguments(locals()))


@register()
class StandardizedConv2D(Standardized, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with its kernel standardized at each call.

    The layer computes with `gain * scale * (kernel - mean) * rstd`, where `mean` and `rstd` are
    taken per output channel. It reads the kernel in the precision in which it is stored and
    standardizes it in float32 (float64 for a float64 kernel), also under mixed precision. The
    variables are those of the stock layer, under the same names.

    `.weights.h5` files address the layer as the stock one, so that weights move both ways. A
    `.keras` file loads after `import tensorflow_groupnorm`. Under `keras.RematScope` the
    standardization is recomputed with the rest of the layer. `quantize` raises an error, and
    `model.quantize` skips the layer; `tfgn.fold(model).quantize` does not.

    Args:
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weight `gain`, initially ones).
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. All other arguments
            are those of the stock layer.

    Raises:
        ValueError: if `variant` or `epsilon` is invalid; in `build`, if a kernel has only one
            weight per output channel.
        RuntimeError: in a call, if the `call` of a subclass does not read the kernel, assigns to
            it, or reads it in a `tf.function` or in a function with a custom gradient.
        NotImplementedError: if the layer is to be quantized.

    Reference:
        [Qiao et al., 2019, Weight Standardization](https://arxiv.org/abs/1903.10520).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        groups: int = 1,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**keyword_arguments(locals()))


@register()
class StandardizedConv3D(Standardized, keras.layers.Conv3D):
    """`keras.layers.Conv3D` with its kernel standardized at each call.

    Variables, saved files, precision and errors are as described for `StandardizedConv2D`.

    Args:
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weight `gain`, initially ones).
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. All other arguments
            are those of the stock layer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1, 1),
        groups: int = 1,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**keyword_arguments(locals()))


@register()
class StandardizedConv1DTranspose(Standardized, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` with its kernel standardized at each call.

    Variables, saved files, precision and errors are as described for `StandardizedConv2D`.

    Args:
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weight `gain`, initially ones).
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. All other arguments
            are those of the stock layer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        output_padding: int | Sequence[int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**keyword_arguments(locals()))


@register()
class StandardizedConv2DTranspose(Standardized, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with its kernel standardized at each call.

    Variables, saved files, precision and errors are as described for `StandardizedConv2D`.

    Args:
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weight `gain`, initially ones).
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. All other arguments
            are those of the stock layer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        output_padding: int | Sequence[int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**keyword_arguments(locals()))


@register()
class StandardizedConv3DTranspose(Standardized, keras.layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` with its kernel standardized at each call.

    Variables, saved files, precision and errors are as described for `StandardizedConv2D`.

    Args:
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weight `gain`, initially ones).
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. All other arguments
            are those of the stock layer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        output_padding: int | Sequence[int] | None = None,
        dilation_rate: int | Sequence[int] = (1, 1, 1),
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**keyword_arguments(locals()))


@register()
class StandardizedDepthwiseConv2D(Standardized, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with its kernel standardized at each call.

    Variables, saved files, precision and errors are as described for `StandardizedConv2D`.

    Args:
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weight `gain`, initially ones).
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. All other arguments
            are those of the stock layer.
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        activation: Activation = None,
        use_bias: bool = True,
        depthwise_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        depthwise_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        depthwise_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**keyword_arguments(locals()))


@register()
class StandardizedSeparableConv2D(Standardized, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` with its kernels standardized at each call.

    Variables, saved files, precision and errors are as described for `StandardizedConv2D`.

    Args:
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weights `depthwise_gain` and
            `pointwise_gain`, initially ones).
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. All other arguments
            are those of the stock layer.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        depth_multiplier: int = 1,
        activation: Activation = None,
        use_bias: bool = True,
        depthwise_initializer: Initializer = "glorot_uniform",
        pointwise_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        depthwise_regularizer: Regularizer = None,
        pointwise_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        depthwise_constraint: Constraint = None,
        pointwise_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**keyword_arguments(locals()))


@register()
class StandardizedDense(Standardized, keras.layers.Dense):
    """`keras.layers.Dense` with its kernel standardized at each call.

    Variables, saved files, precision and errors are as described for `StandardizedConv2D`.

    Args:
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weight `gain`, initially ones).
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. All other arguments
            are those of the stock layer.
    """

    def __init__(
        self,
        units: int,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**keyword_arguments(locals()))
