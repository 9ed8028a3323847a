"""Group normalization in keras.ops, for Keras backends without the fused op."""

from __future__ import annotations

import keras
from keras import ops

from .._types import FusedActivation, KerasTensor


def group_norm(
    x: KerasTensor,
    gamma: KerasTensor | None,
    beta: KerasTensor | None,
    groups: int,
    *,
    axis: int,
    epsilon: float,
    activation: FusedActivation | None = None,
    residual: KerasTensor | None = None,
    mask: KerasTensor | None = None,
) -> KerasTensor:
    """`tensorflow_groupnorm.group_norm` on any Keras backend, with the same arguments.

    Here, `mask` must be boolean and have as many axes as `x`. Statistics are float32 or wider; the
    result has the dtype of `x`.
    """
    rank = len(x.shape)
    axis %= rank
    dtype = keras.backend.result_type(x.dtype, "float32")
    y = ops.cast(x, dtype)
    y = y if mask is None else ops.where(mask, y, 0)
    weights = ops.ones_like(y) if mask is None else ops.cast(mask, dtype) + ops.zeros_like(y)
    count = ops.maximum(_group_sum(weights, groups, axis), 1)

    def center(t: KerasTensor) -> KerasTensor:
        t = t - _group_sum(t, groups, axis) / count
        return t if mask is None else ops.where(mask, t, 0)

    # The second pass removes the rounding error of the float32 mean of the first.
    y = center(center(y))
    y = y * ops.rsqrt(_group_sum(ops.square(y), groups, axis) / count + epsilon)
    shape = [-1 if i == 0 else x.shape[axis] if i == axis else 1 for i in range(rank)]
    y = y if gamma is None else y * ops.reshape(ops.cast(gamma, dtype), shape)
    y = y if beta is None else y + ops.reshape(ops.cast(beta, dtype), shape)
    if residual is not None:
        residual = residual if mask is None else ops.where(mask, residual, 0)
        y = y + ops.cast(residual, dtype)
    if activation == "relu":
        y = ops.relu(y)
    elif activation == "silu":
        y = ops.silu(y)
    return ops.cast(y if mask is None else ops.where(mask, y, 0), x.dtype)


def _group_sum(x: KerasTensor, groups: int, axis: int) -> KerasTensor:
    """The sum of each sample and group, one value per channel, broadcastable to `x`."""
    channels = x.shape[axis]
    shape = [-1 if i == 0 else channels if i == axis else 1 for i in range(len(x.shape))]
    others = [i for i in range(1, len(x.shape)) if i != axis]
    total = ops.reshape(ops.sum(x, others), [-1, groups, channels // groups])
    total = ops.repeat(ops.sum(total, 2, keepdims=True), channels // groups, 2)
    return ops.reshape(total, shape)
