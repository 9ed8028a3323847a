"""Group normalization in keras.ops, for the Keras backends that have no fused op."""

import keras
from keras import ops


def group_norm(x, gamma, beta, groups, *, axis, epsilon, activation=None, residual=None, mask=None):
    """`tensorflow_groupnorm.group_norm` on any Keras backend, with the same arguments.

    `mask`, unlike there, is boolean and has as many axes as `x`. The statistics are float32 or
    wider; the result is in the dtype of `x`.
    """
    rank = len(x.shape)
    axis %= rank
    dtype = keras.backend.result_type(x.dtype, "float32")
    y = ops.cast(x, dtype)
    y = y if mask is None else ops.where(mask, y, 0)
    weights = ops.ones_like(y) if mask is None else ops.cast(mask, dtype) + ops.zeros_like(y)
    count = ops.maximum(_group_sum(weights, groups, axis), 1)

    def center(t):
        t = t - _group_sum(t, groups, axis) / count
        return t if mask is None else ops.where(mask, t, 0)

    # Twice, without the rounding error of a single float32 mean.
    y = center(center(y))
    y = y * ops.rsqrt(_group_sum(ops.square(y), groups, axis) / count + epsilon)
    shape = [-1 if i == 0 else x.shape[axis] if i == axis else 1 for i in range(rank)]
    y = y if gamma is None else y * ops.reshape(ops.cast(gamma, dtype), shape)
    y = y if beta is None else y + ops.reshape(ops.cast(beta, dtype), shape)
    if residual is not None:
        residual = residual if mask is None else ops.where(mask, residual, 0)
        y = y + ops.cast(residual, dtype)
    y = {"relu": ops.relu, "silu": ops.silu}.get(activation, lambda t: t)(y)
    return ops.cast(y if mask is None else ops.where(mask, y, 0), x.dtype)


def _group_sum(x, groups, axis):
    """The sum of each sample and group, one value per channel, broadcastable to `x`."""
    channels = x.shape[axis]
    shape = [-1 if i == 0 else channels if i == axis else 1 for i in range(len(x.shape))]
    others = [i for i in range(1, len(x.shape)) if i != axis]
    total = ops.reshape(ops.sum(x, others), [-1, groups, channels // groups])
    total = ops.repeat(ops.sum(total, 2, keepdims=True), channels // groups, 2)
    return ops.reshape(total, shape)
