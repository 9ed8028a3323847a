"""What both operations are made of."""

import tensorflow as tf

FLOAT_DTYPES = (tf.float32, tf.bfloat16, tf.float16, tf.float64)


def statistics_dtype(x):
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def mean_over(x, axes):
    for axis in axes:
        size = x.shape[axis]
        if size:
            x = tf.reduce_mean(x, axis, keepdims=True)
        else:  # The mean of nothing is 0, as in the fused op, not NaN.
            size = tf.cast(tf.maximum(tf.shape(x)[axis], 1), x.dtype)
            x = tf.reduce_sum(x, axis, keepdims=True) / size
    return x


def sum_over(x, axes):
    for axis in axes:
        x = tf.reduce_sum(x, axis, keepdims=True)
    return x


def center(x, mean):
    """`x - mean(x)`, without the rounding error of a single float32 mean.

    A constant shift changes neither the result nor any derivative, hence stop_gradient.
    """
    x -= tf.stop_gradient(mean(x))
    return x - mean(x)


def live_zero(x):
    """Zero in value, `x` to every derivative."""
    return x - tf.stop_gradient(x)


def dim(x, axis):
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def check_float(x, name):
    x = tf.convert_to_tensor(x)
    if x.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"`{name}` must be float16, bfloat16, float32 or float64. "
            f"Received: {name}.dtype={x.dtype.name}"
        )
    return x
