"""Building blocks of both operations: checks, moments and derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import tensorflow as tf

from .._types import TensorLike

FLOAT_DTYPES = (tf.float32, tf.bfloat16, tf.float16, tf.float64)


def statistics_dtype(x: tf.Tensor) -> tf.DType:
    """Returns the dtype in which the statistics of `x` are computed."""
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def mean_over(x: tf.Tensor, axes: Iterable[int]) -> tf.Tensor:
    """Returns the mean over each axis in turn, keeping the axes; 0 where there is nothing."""
    for axis in axes:
        size = x.shape[axis]
        if size:
            x = tf.reduce_mean(x, axis, keepdims=True)
        else:  # An empty mean is 0, as in the fused op, and not NaN.
            size = tf.cast(tf.maximum(tf.shape(x)[axis], 1), x.dtype)
            x = tf.reduce_sum(x, axis, keepdims=True) / size
    return x


def sum_over(x: tf.Tensor, axes: Iterable[int]) -> tf.Tensor:
    """Returns the sum over each axis in turn, keeping the axes."""
    for axis in axes:
        x = tf.reduce_sum(x, axis, keepdims=True)
    return x


def center(x: tf.Tensor, mean: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Returns `x - mean(x)` without the rounding error of a single float32 mean.

    A constant shift changes neither the result nor any derivative, hence stop_gradient.
    """
    x -= tf.stop_gradient(mean(x))
    return x - mean(x)


def live_zero(x: tf.Tensor) -> tf.Tensor:
    """Returns a zero whose derivatives, of every order, are those of `x`."""
    return x - tf.stop_gradient(x)


def dim(x: tf.Tensor, axis: int) -> int | tf.Tensor:
    """Returns the size of an axis: an int where it is static, else a scalar tensor."""
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def check_float(x: TensorLike, name: str) -> tf.Tensor:
    """Returns `x` as a tensor; raises ValueError unless it is of a float dtype."""
    x = tf.convert_to_tensor(x)
    if x.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"`{name}` must be float16, bfloat16, float32 or float64. "
            f"Received: {name}.dtype={x.dtype.name}"
        )
    return x
