"""Adaptive gradient clipping, for networks that have no normalization to bound their gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import tensorflow as tf

from ._types import TensorLike


def adaptive_grad_clip(
    gradients: Iterable[TensorLike | tf.IndexedSlices | None],
    variables: Iterable[TensorLike],
    clipping: float = 0.01,
    epsilon: float = 1e-3,
) -> list[tf.Tensor | None]:
    """Scales down gradients that are large relative to their weights.

    The gradient `G` of each unit with weights `W` is multiplied by
    `min(1, clipping * max(|W|, epsilon) / |G|)`, with Euclidean norms. A unit is the set of weights
    behind one output. In a variable with two or more axes, such as the kernel of a dense or
    convolution layer, it spans all axes but the last; in a depthwise kernel the last axis is the
    depth multiplier. A vector or a scalar is one unit.

    The authors do not clip the last layer, the classifier. To clip in `fit`:

        class SGD(keras.optimizers.SGD):
            def apply(self, grads, trainable_variables=None):
                variables = trainable_variables or self._trainable_variables
                super().apply(tfgn.adaptive_grad_clip(grads, variables), trainable_variables)

    Args:
        gradients: list of tensors, `tf.IndexedSlices` or `None`s.
        variables: list of the variables or tensors that the gradients belong to, in the same order
            and with the same shapes.
        clipping: the largest allowed ratio of the norm of a gradient to the norm of its weights,
            > 0. The paper uses 0.01 for batches of 4096 and larger values for smaller batches.
        epsilon: lower bound on the norm of the weights, > 0, so that weights of 0 can learn.

    Returns:
        A list of tensors with the dtypes of `gradients`, and `None` for each gradient that is
        `None`. Norms and products are computed in float32 (float64 for float64 gradients).

    Raises:
        ValueError: if the lists differ in length, if a gradient and its variable differ in shape,
            or if `clipping` or `epsilon` is not a finite number above 0.

    Reference:
        [Brock et al., 2021, High-performance large-scale image recognition without
        normalization](https://arxiv.org/abs/2102.06171), equation 3.
    """
    for name, value in (("clipping", clipping), ("epsilon", epsilon)):
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be a finite number above 0. Received: {name}={value}")
    gradients, variables = list(gradients), list(variables)
    if len(gradients) != len(variables):
        raise ValueError(
            "`gradients` and `variables` must have the same length. "
            f"Received: {len(gradients)} gradients and {len(variables)} variables"
        )
    return [
        None if gradient is None else _clip(i, gradient, variable, clipping, epsilon)
        for i, (gradient, variable) in enumerate(zip(gradients, variables, strict=True))
    ]


def _clip(
    i: int,
    slope: TensorLike | tf.IndexedSlices,
    variable: TensorLike,
    clipping: float,
    epsilon: float,
) -> tf.Tensor:
    gradient, weights = tf.convert_to_tensor(slope), tf.convert_to_tensor(variable)
    if not gradient.shape.is_compatible_with(weights.shape):
        raise ValueError(
            "Each of `gradients` must have the shape of its variable. Received: "
            f"gradients[{i}].shape={gradient.shape} for variables[{i}].shape={weights.shape}"
        )
    dtype = tf.float64 if gradient.dtype == tf.float64 else tf.float32
    wide = tf.cast(gradient, dtype)
    rank = weights.shape.rank
    axes = list(range(rank - 1 if rank > 1 else rank))
    limit = clipping * tf.maximum(_norms(tf.cast(weights, dtype), axes), epsilon)
    # For a gradient of 0 the quotient is infinite and the factor 1.
    factor = tf.minimum(tf.ones([], dtype), limit / _norms(wide, axes))
    return tf.cast(wide * factor, gradient.dtype)


def _norms(x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims=True))
