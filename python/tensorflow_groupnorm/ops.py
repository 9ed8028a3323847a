"""The fused ops: as functions, and as raw ops. Their gradients are in `_gradients`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tfgn_base.variants import resolve

from . import _export_mode, _gradients, _library, stock  # noqa: F401  Registers gradients.
from ._types import DType, FusedActivation, TensorLike
from .stock._common import check_float
from .stock._group_norm import number_of_groups

_OPS: Any = _library.load()
if _OPS is not None:
    # It registers converters by a module of TensorFlow without public names, which another version
    # than those that the ops are built for may lack.
    from . import _vectorization  # noqa: F401


class _RawOps:
    """The registered ops, called as those of `tf.raw_ops` are: with keyword arguments only.

    `GroupNorm`, `GroupNormGrad`, `StandardizeWeights`, `StandardizeWeightsGrad` and
    `OptimizationBarrier`. `help()` on an op describes its arguments, with shapes and types, its
    attributes and its outputs. An op raises `tf.errors.InvalidArgumentError` for an invalid
    argument, or `ValueError` while a graph is built.

    Raises:
        ImportError: if the op library could not be loaded; the message gives the reason.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _library.OPS:
            raise AttributeError(f"raw_ops has {', '.join(_library.OPS)}, but no {name}")
        if _OPS is None:
            raise ImportError(_library.load_error())
        return getattr(_OPS, name)

    def __dir__(self) -> Iterable[str]:
        return _library.OPS


raw_ops = _RawOps()


def group_norm(
    x: TensorLike,
    gamma: TensorLike | None = None,
    beta: TensorLike | None = None,
    groups: int = 32,
    *,
    axis: int = -1,
    epsilon: float = 1e-3,
    activation: FusedActivation | None = None,
    residual: TensorLike | None = None,
    mask: TensorLike | None = None,
) -> tf.Tensor:
    """Group normalization with optional residual and activation, in one fused op.

    `activation((x - mean) * rstd * gamma + beta + residual)`, where `mean` and
    `rstd = 1 / sqrt(var + epsilon)` are taken per sample and group: over `channels / groups`
    consecutive channels and over all axes but the batch and the channel axis. Statistics and
    arithmetic are float32 (float64 for a float64 `x`). The result is bit-identical from run to run,
    for any number of threads, and under `jit_compile=True`.

    The function is differentiable to any order, in reverse and in forward mode. Gradients beyond
    the first order run in stock TensorFlow ops. `tf.vectorized_map` and Jacobians run the fused op
    once for all their iterations. If the op library could not be loaded, this is
    `tensorflow_groupnorm.stock.group_norm`.

    With a `mask`, statistics cover only the positions where it is true, and the result is 0
    elsewhere. The values of `x` and `residual` at masked positions, even NaN, affect neither the
    result nor any gradient. A group whose positions are all masked has mean 0 and variance 0. The
    fused op takes no mask, so that masked calls run in stock TensorFlow ops.

    Args:
        x: float16, bfloat16, float32 or float64 tensor of rank >= 2; axis 0 is the batch. It may
            be empty.
        gamma: scale, `[channels]` or, per sample, `[batch, channels]`; `None` for ones.
        beta: shift, `[channels]` or, per sample, `[batch, channels]`; `None` for zeros.
        groups: number of groups, a divisor of `channels`. 1 is layer normalization over channels
            and space; `channels`, or -1, is instance normalization.
        axis: the channel axis, any but 0.
        epsilon: added to the variance, as a float32.
        activation: `"linear"`, `"relu"` or `"silu"`; `None` for linear.
        residual: tensor of the shape and dtype of `x`, added before the activation, or `None`. The
            op calls it `side_input`.
        mask: boolean tensor, true at the positions to use, or `None` to use all. Its axes are the
            leading axes of `x` without the channel axis (`[batch, steps]`, `[batch, height,
            width]`, ...), or all axes of `x`. Axes of size 1 are broadcast.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        tf.errors.InvalidArgumentError: if an argument is not as described above, in eager mode.
        ValueError: likewise, with the same message, while a graph is built. In both modes: if `x`
            is not of a float dtype, if `residual` has another dtype than `x`, or if `mask` does
            not fit `x`.

    Reference:
        [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494).
    """
    replacement = _export_mode.group_norm()
    if uses_stock() or mask is not None or replacement is not None:
        return (replacement or stock.group_norm)(
            x,
            gamma,
            beta,
            groups,
            axis=axis,
            epsilon=epsilon,
            activation=activation,
            residual=residual,
            mask=mask,
        )
    return group_norm_with_statistics(
        x,
        gamma,
        beta,
        groups,
        axis=axis,
        epsilon=epsilon,
        activation=activation,
        residual=residual,
    )[0]


def group_norm_with_statistics(
    x: TensorLike,
    gamma: TensorLike | None,
    beta: TensorLike | None,
    groups: int,
    *,
    axis: int,
    epsilon: float,
    activation: FusedActivation | None,
    residual: TensorLike | None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """The fused op behind `group_norm`, and what its gradient needs of it.

    Args:
        x: as in `group_norm`, and so are the other arguments.
        gamma: scale or `None`.
        beta: shift or `None`.
        groups: number of groups, or -1.
        axis: the channel axis.
        epsilon: added to the variance.
        activation: `"linear"`, `"relu"` or `"silu"`; `None` for linear.
        residual: tensor of the shape and dtype of `x`, or `None`.

    Returns:
        `(y, mean, rstd, rest)`: the result of `group_norm`, `[batch, groups]` twice, and
        `[batch, 2, groups]`, what the two statistics lost when they were rounded to float32.
    """
    x = check_float(x, "x")
    dtype = _parameter_dtype(x)
    outputs = _OPS.group_norm(
        x,
        _parameter(gamma, dtype),
        _parameter(beta, dtype),
        [] if residual is None else [tf.convert_to_tensor(residual, x.dtype)],
        groups=_as_many_as_channels(x, axis) if groups == -1 else groups,
        epsilon=epsilon,
        axis=axis,
        activation="linear" if activation is None else activation,
        with_rest=1,
    )
    return outputs.y, outputs.mean, outputs.rstd, outputs.rest[0]


def group_norm_gradient(
    dy: tf.Tensor,
    x: tf.Tensor,
    gamma: TensorLike | None,
    beta: TensorLike | None,
    mean: tf.Tensor,
    rstd: tf.Tensor,
    rest: tf.Tensor,
    residual: tf.Tensor | None,
    *,
    groups: int,
    axis: int,
    activation: FusedActivation | None,
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None, tf.Tensor | None, tf.Tensor]:
    """The gradients of `group_norm_with_statistics`, and its result once more, in one fused op.

    Args:
        dy: gradient of the result, of the shape and dtype of `x`.
        x: as given to `group_norm_with_statistics`, and so are all arguments without a description.
        gamma: see `x`.
        beta: see `x`.
        mean: as returned by `group_norm_with_statistics`.
        rstd: likewise.
        rest: likewise.
        residual: see `x`.
        groups: see `x`.
        axis: see `x`.
        activation: see `x`.

    Returns:
        `(dx, dgamma, dbeta, dresidual, y)`: gradients of the shapes and dtypes of what they are
        gradients of, `None` for what is `None`; and `y`, bit for bit. All are differentiable.
    """
    dtype = _parameter_dtype(x)
    outputs = _OPS.group_norm_grad(
        dy,
        x,
        _parameter(gamma, dtype),
        _parameter(beta, dtype),
        mean,
        rstd,
        [] if residual is None else [residual],
        [rest],
        groups=_as_many_as_channels(x, axis) if groups == -1 else groups,
        axis=axis,
        activation="linear" if activation is None else activation,
        with_y=1,
    )
    return (
        outputs.dx,
        _gradient_of(gamma, outputs.dgamma),
        _gradient_of(beta, outputs.dbeta),
        None if residual is None else outputs.dside[0],
        # A node of its own: TensorFlow's oneDNN pass takes a BiasAddGrad of dx and a
        # Conv2DBackpropFilter with y for those of one convolution if both read the same node.
        tf.ensure_shape(outputs.y[0], x.shape),
    )


def optimization_barrier(x: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Returns `x` once `after` is computed; what is computed of it is not merged with that of `x`.

    Args:
        x: the tensor to return, of any dtype.
        after: the tensor to wait for, of any dtype. No gradient flows to it.
    """
    return _OPS.optimization_barrier(x, after)


def standardize_weights(
    w: TensorLike,
    gain: TensorLike | None = None,
    *,
    variant: str = "bit",
    epsilon: float | None = None,
    axis: int | Sequence[int] = -1,
    dtype: DType | None = None,
) -> tf.Tensor:
    """Weight standardization of a kernel, in one fused op.

    `gain * scale * (w - mean) * rstd`, with `mean` and `rstd` taken per output channel: over all
    axes but `axis`. Statistics and arithmetic are float32 (float64 for a float64 `w`). The result
    is bit-identical from run to run, for any number of threads, and under `jit_compile=True`.

    The function is differentiable to any order, in reverse and in forward mode. Gradients beyond
    the first order run in stock TensorFlow ops. `tf.vectorized_map` and Jacobians run the fused op
    once for all their iterations. If the op library could not be loaded, this is
    `tensorflow_groupnorm.stock.standardize_weights`.

    Args:
        w: the kernel, float16, bfloat16, float32 or float64, of static shape.
        gain: `[output_channels]`, or `None` for ones. With several output-channel axes,
            `output_channels` is the product of their sizes, in the kernel's row-major order.
        variant: the published definition to follow: `"bit"`, `"timm"`, `"qiao"`, `"qiao_tf"`,
            `"nfnet"` or `"timm_scaled"`; see `tensorflow_groupnorm.stock.standardize_weights`.
        epsilon: `None` for the default of the variant. The op holds it as a float32.
        axis: int or list of ints, the output-channel axes, which are not reduced.
        dtype: dtype of the result; `None` for that of `w`. For mixed precision, one pass reads a
            float32 kernel and writes a float16 or bfloat16 one. float64 requires a float64 `w`.

    Returns:
        A tensor of the shape of `w`.

    Raises:
        ValueError: if `variant` is unknown, `epsilon` is below 0, or `w` has no static shape.
        tf.errors.InvalidArgumentError: if another argument is not as described above; a
            `ValueError` with the same message while a graph is built.

    Reference:
        [Qiao et al., 2019, Micro-Batch Training with Batch-Channel Normalization and Weight
        Standardization](https://arxiv.org/abs/1903.10520).
    """
    if _are_variables(w, gain):
        return _export_mode.folded(
            lambda: _standardize_weights(w, gain, variant, epsilon, axis, dtype)
        )
    return _standardize_weights(w, gain, variant, epsilon, axis, dtype)


def _standardize_weights(
    w: TensorLike,
    gain: TensorLike | None,
    variant: str,
    epsilon: float | None,
    axis: int | Sequence[int],
    dtype: DType | None,
) -> tf.Tensor:
    if uses_stock("StandardizeWeights"):
        return stock.standardize_weights(
            w, gain, variant=variant, epsilon=epsilon, axis=axis, dtype=dtype
        )
    kernel = tf.convert_to_tensor(w)
    axes = [axis] if isinstance(axis, int) else list(axis)
    attrs = resolve(variant, epsilon, _fan_in(kernel.shape, axes))
    return _OPS.standardize_weights(
        kernel,
        _parameter(gain, _parameter_dtype(kernel)),
        Tout=kernel.dtype if dtype is None else dtype,
        axis=axes,
        **attrs,
    ).w_hat


def _as_many_as_channels(x: tf.Tensor, axis: int) -> int:
    """Returns the number of channels; for an axis out of range -1, which the op refuses."""
    rank = x.shape.rank
    if rank is not None and not -rank <= axis < rank:
        return -1
    return number_of_groups(-1, None if rank is None else x.shape[axis])


def uses_stock(op: str = "GroupNorm") -> bool:
    """Whether the functions here run on stock ops in place of an op, at present."""
    return _OPS is None or _export_mode.is_stock(op)


def _are_variables(*values: TensorLike | None) -> bool:
    return all(v is None or isinstance(v, (tf.Variable, keras.Variable)) for v in values)


def _parameter_dtype(x: tf.Tensor) -> tf.DType:
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _parameter(value: TensorLike | None, dtype: tf.DType) -> tf.Tensor:
    # The ops take a tensor of shape [0] as an absent one.
    return tf.constant([], dtype) if value is None else tf.cast(value, dtype)


def _gradient_of(value: TensorLike | None, gradient: tf.Tensor) -> tf.Tensor | None:
    # Of the dtype of the value, which _parameter casts.
    return None if value is None else tf.cast(gradient, tf.convert_to_tensor(value).dtype)


def _fan_in(shape: tf.TensorShape, axis: Sequence[int]) -> int:
    """The number of weights per output channel. The op refuses an axis out of range."""
    if not shape.is_fully_defined():
        raise ValueError(f"`w` must have a static shape. Received: w.shape={shape}")
    kept = {i + shape.rank if i < 0 else i for i in axis}
    return math.prod(size for i, size in enumerate(shape) if i not in kept)
