"""GroupNorm and its backward pass in stock ops."""

from __future__ import annotations

import math

import tensorflow as tf

from .._types import FusedActivation, TensorLike
from ._common import center, check_float, dim, live_zero, mean_over, statistics_dtype, sum_over

ACTIVATIONS = ("linear", "relu", "silu")

#: The name scope of the ops of `group_norm` in a graph.
SCOPE = "stock_group_norm"


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
    """Group normalization with optional residual and activation, in stock ops.

    `activation((x - mean) * rstd * gamma + beta + residual)`, where `mean` and
    `rstd = 1 / sqrt(var + epsilon)` are taken per sample and group: over `channels / groups`
    consecutive channels and over all axes but the batch and the channel axis. Statistics and
    arithmetic are float32 (float64 for a float64 `x`).

    With a `mask`, statistics cover only the positions where it is true, and the result is 0
    elsewhere. The values of `x` and `residual` at masked positions, even NaN, affect neither the
    result nor any gradient. A group whose positions are all masked has mean 0 and variance 0.

    Args:
        x: float16, bfloat16, float32 or float64 tensor of rank >= 2; axis 0 is the batch.
            While tracing, only the rank must be known.
        gamma: scale, `[channels]` or, per sample, `[batch, channels]`; `None` for ones.
        beta: shift, `[channels]` or, per sample, `[batch, channels]`; `None` for zeros.
        groups: number of groups, a divisor of `channels`; -1 for as many as channels.
        axis: the channel axis, any but 0.
        epsilon: added to the variance.
        activation: `"linear"`, `"relu"` or `"silu"`; `None` for linear.
        residual: tensor of the shape and dtype of `x`, added before the activation, or `None`.
        mask: boolean tensor, true at the positions to use, or `None` to use all. Its axes are the
            leading axes of `x` without the channel axis (`[batch, steps]`, `[batch, height,
            width]`, ...), or all axes of `x`. Axes of size 1 are broadcast.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        ValueError: if an argument is not as described above.

    Reference:
        [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494).
    """
    x, axis, groups = _check_input(x, groups, axis)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"`epsilon` must be a finite number >= 0. Received: epsilon={epsilon!r}")
    activation = _check_activation(activation)
    residual = _check_residual(residual, x)
    with tf.name_scope(SCOPE):
        dtype = statistics_dtype(x)
        epsilon = tf.constant(epsilon, dtype)
        if mask is None:
            centered = center(tf.cast(x, dtype), lambda t: _group_mean(t, groups, axis))
            variance = _group_mean(tf.square(centered), groups, axis)
        else:
            mask = _check_mask(mask, x, axis)
            residual = None if residual is None else tf.where(mask, residual, 0)
            centered, variance, count = _masked_moments(tf.cast(x, dtype), mask, groups, axis)
            # With epsilon = 0 an empty group would have the gradient 0 * inf.
            variance = tf.where(count > 0, variance, 1)
        scale = tf.math.rsqrt(variance + epsilon)
        if gamma is not None:
            scale *= _per_channel(gamma, "gamma", x, axis)
        y = centered * scale
        if beta is not None:
            y += _per_channel(beta, "beta", x, axis)
        if residual is not None:
            y += tf.cast(residual, dtype)
        y = activate(y, activation)
        if mask is not None:
            y = tf.where(mask, y, 0)
        return tf.ensure_shape(tf.cast(y, x.dtype), x.shape)


def group_norm_grad(
    dy: tf.Tensor,
    x: tf.Tensor,
    gamma: tf.Tensor | None,
    beta: tf.Tensor | None,
    mean: tf.Tensor,
    rstd: tf.Tensor,
    side: tf.Tensor | None,
    *,
    groups: int,
    axis: int,
    activation: FusedActivation | None,
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None, tf.Tensor | None, tf.Tensor]:
    """The backward pass of `group_norm` from saved statistics, in stock ops.

    The values are those of the GroupNormGrad op, which uses `mean` and `rstd` as given.
    Derivatives of the result with respect to `x` are total: they include the dependence of the
    statistics on `x`. Differentiating the result therefore gives the second-order gradients of
    `group_norm`.

    Args:
        dy: gradient of the output, shape and dtype of `x`.
        x: the input of `group_norm`.
        gamma: `[C]`, `[N, C]` or `None`.
        beta: `[C]`, `[N, C]` or `None`.
        mean: `[N, groups]`, the saved mean.
        rstd: `[N, groups]`, the saved reciprocal standard deviation.
        side: the residual or `None`.
        groups: number of groups.
        axis: the channel axis.
        activation: `"linear"`, `"relu"` or `"silu"`; `None` for linear.

    Returns:
        `(dx, dgamma, dbeta, dside, y)` with the shapes and dtypes of `x`, `gamma`, `beta`, `side`
        and `x`, and `None` for each of these that is `None`. `y` is the output of `group_norm`.
    """
    x, axis, groups = _check_input(x, groups, axis)
    activation = _check_activation(activation)
    dtype = statistics_dtype(x)
    xc = tf.cast(x, dtype)
    live_mean = _group_mean(xc, groups, axis)
    mean = _per_group(tf.stop_gradient(mean), xc, groups, axis) + live_zero(live_mean)
    variance = _group_mean(tf.square(xc - live_mean), groups, axis)
    rstd = _per_group(tf.stop_gradient(rstd), xc, groups, axis)
    # (var + epsilon)^-1/2 around the saved rstd = (var0 + epsilon)^-1/2.
    rstd /= tf.sqrt(1 + tf.square(rstd) * live_zero(variance))
    x_hat = (xc - mean) * rstd
    scale = None if gamma is None else _per_channel(gamma, "gamma", x, axis)
    dh = tf.cast(dy, dtype)
    h = x_hat if scale is None else x_hat * scale
    if beta is not None:
        h += _per_channel(beta, "beta", x, axis)
    if side is not None:
        h += tf.cast(side, dtype)
    if activation != "linear":
        dh *= _activation_derivative(h, activation)
    dx_hat = dh if scale is None else dh * scale
    dx = dx_hat - _group_mean(dx_hat, groups, axis)
    dx = rstd * (dx - x_hat * _group_mean(dx_hat * x_hat, groups, axis))
    return (
        tf.cast(dx, x.dtype),
        None if gamma is None else _sum_to_parameter(dh * x_hat, gamma, axis),
        None if beta is None else _sum_to_parameter(dh, beta, axis),
        None if side is None else tf.cast(dh, side.dtype),
        tf.cast(activate(h, activation), x.dtype),
    )


def _group_mean(x: tf.Tensor, groups: int, axis: int) -> tf.Tensor:
    """The mean of each sample and group, one value per channel, broadcastable to `x`."""
    mean = mean_over(x, [i for i in range(1, x.shape.rank) if i != axis])
    mean = tf.reshape(mean, [dim(x, 0), groups, dim(x, axis) // groups])
    return _per_group(tf.reduce_mean(mean, 2), x, groups, axis)


def _masked_moments(
    x: tf.Tensor, mask: tf.Tensor, groups: int, axis: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The moments of each group over the positions where `mask` is true, one value per channel.

    Returns:
        `(x - mean, variance, count)`; `x - mean` is 0 where `mask` is false.
    """
    count = _group_sum(tf.cast(tf.broadcast_to(mask, tf.shape(x)), x.dtype), groups, axis)
    size = tf.maximum(count, 1)

    def mean(t: tf.Tensor) -> tf.Tensor:
        return _group_sum(tf.where(mask, t, 0), groups, axis) / size

    # A NaN or infinity at a masked position must not meet that position's zero gradient.
    centered = tf.where(mask, center(tf.where(mask, x, 0), mean), 0)
    return centered, _group_sum(tf.square(centered), groups, axis) / size, count


def _group_sum(x: tf.Tensor, groups: int, axis: int) -> tf.Tensor:
    """The sum of each sample and group, one value per channel, broadcastable to `x`."""
    total = sum_over(x, [i for i in range(1, x.shape.rank) if i != axis])
    total = tf.reshape(total, [dim(x, 0), groups, dim(x, axis) // groups])
    return _per_group(tf.reduce_sum(total, 2), x, groups, axis)


def _per_group(statistic: tf.Tensor, x: tf.Tensor, groups: int, axis: int) -> tf.Tensor:
    """`[N, groups]` repeated to one value per channel, broadcastable to `x`."""
    batch, channels = dim(x, 0), dim(x, axis)
    statistic = tf.tile(statistic[:, :, tf.newaxis], [1, 1, channels // groups])
    shape = [batch] + [1] * (x.shape.rank - 1)
    shape[axis] = channels
    return tf.reshape(statistic, shape)


def _per_channel(values: TensorLike, name: str, x: tf.Tensor, axis: int) -> tf.Tensor:
    """`[C]` or `[N, C]` in the dtype of the statistics, broadcastable to `x`."""
    parameter = tf.convert_to_tensor(values)
    batch, channels = x.shape[0], x.shape[axis]
    expected = (tf.TensorShape([channels]), tf.TensorShape([batch, channels]))
    if not any(parameter.shape.is_compatible_with(shape) for shape in expected):
        raise ValueError(
            f"`{name}` must have the shape (channels,) or (batch, channels), here "
            f"({channels},) or ({batch}, {channels}). Received: {name}.shape={parameter.shape}"
        )
    if parameter.shape.rank is None:
        raise ValueError(f"`{name}` must have a known rank. Received: {name}={parameter}")
    shape = [1] * x.shape.rank
    shape[axis] = dim(parameter, -1)
    if parameter.shape.rank == 2:
        shape[0] = dim(parameter, 0)
    return tf.cast(tf.reshape(parameter, shape), statistics_dtype(x))


def _sum_to_parameter(x: tf.Tensor, parameter: tf.Tensor, axis: int) -> tf.Tensor:
    """Sums `x` to the shape and dtype of a `[C]` or `[N, C]` parameter."""
    kept = (axis,) if parameter.shape.rank == 1 else (0, axis)
    total = sum_over(x, [i for i in range(x.shape.rank) if i not in kept])
    return tf.cast(tf.reshape(total, tf.shape(parameter)), parameter.dtype)


def activate(h: tf.Tensor, activation: FusedActivation) -> tf.Tensor:
    if activation == "relu":
        return tf.nn.relu(h)
    return h * tf.sigmoid(h) if activation == "silu" else h


def _activation_derivative(h: tf.Tensor, activation: FusedActivation) -> tf.Tensor:
    if activation == "relu":
        return tf.cast(h > 0, h.dtype)
    sigmoid = tf.sigmoid(h)
    return sigmoid * (1 + h * (1 - sigmoid))


def _check_input(x: TensorLike, groups: int, axis: int) -> tuple[tf.Tensor, int, int]:
    """Returns `x` as a tensor, the channel axis counted from 0 and the number of groups."""
    x = check_float(x, "x")
    rank = x.shape.rank
    if rank is None or rank < 2:
        raise ValueError(f"`x` must have a known rank >= 2. Received: x.shape={x.shape}")
    if not -rank < axis < rank or axis == 0:
        raise ValueError(
            f"`axis` must be a channel axis of `x` other than the batch axis 0. "
            f"Received: axis={axis} for x.shape={x.shape}"
        )
    channels = x.shape[axis]
    groups = number_of_groups(groups, channels)
    if groups < 1 or (channels is not None and channels % groups):
        raise ValueError(
            "`groups` must be >= 1 and divide the number of channels. "
            f"Received: groups={groups} for {channels} channels"
        )
    return x, axis % rank, groups


def number_of_groups(groups: int, channels: int | None) -> int:
    """Returns `groups`, or the number of channels if `groups` is -1."""
    if groups != -1:
        return groups
    if channels is None:
        raise ValueError(
            "`groups=-1` needs the number of channels, which is unknown here: give `x` a static "
            "channel axis (`tf.ensure_shape`) or state the groups"
        )
    return channels


def _check_mask(mask: TensorLike, x: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns `mask` as a boolean tensor of the rank of `x`, broadcastable to `x`."""
    mask = tf.cast(mask, tf.bool)
    rank = mask.shape.rank
    if rank is not None and 0 < rank < x.shape.rank:
        sizes = iter([dim(mask, i) for i in range(rank)])
        shape = [1 if i == axis else next(sizes, 1) for i in range(x.shape.rank)]
        expanded = tf.reshape(mask, shape)
    else:
        expanded = mask
    if expanded.shape.rank != x.shape.rank or not all(
        size in (1, None) or of_x in (size, None)
        for size, of_x in zip(expanded.shape, x.shape, strict=True)
    ):
        raise ValueError(
            "`mask` must have the leading axes of `x` without the channel axis, or all axes of "
            f"`x`, each with the same size or 1. Received: mask.shape={mask.shape} for "
            f"x.shape={x.shape}, axis={axis}"
        )
    return expanded


def _check_activation(activation: FusedActivation | None) -> FusedActivation:
    activation = "linear" if activation is None else activation
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"`activation` must be None, 'linear', 'relu' or 'silu'. "
            f"Received: activation={activation!r}"
        )
    return activation


def _check_residual(values: TensorLike | None, x: tf.Tensor) -> tf.Tensor | None:
    if values is None:
        return None
    residual = tf.convert_to_tensor(values)
    if residual.dtype != x.dtype or not residual.shape.is_compatible_with(x.shape):
        raise ValueError(
            f"`residual` must have the shape and dtype of `x`, {x.shape} and {x.dtype.name}. "
            f"Received: residual.shape={residual.shape}, residual.dtype={residual.dtype.name}"
        )
    return residual
