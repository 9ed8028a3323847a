"""Weight standardization and its backward pass in stock ops."""

import math

import tensorflow as tf
from tfgn_base.variants import check_variant, resolve

from ._common import center, check_float, dim, live_zero, mean_over, statistics_dtype, sum_over


def standardize_weights(w, gain=None, *, variant="bit", epsilon=None, axis=-1, dtype=None):
    """Weight standardization of a kernel, in stock ops.

    `gain * scale * (w - mean) * rstd` with the statistics of each output channel, that is,
    over all axes other than `axis`. Statistics and arithmetic are float32 (float64 for a
    float64 `w`).

    Args:
        w: the kernel, float16, bfloat16, float32 or float64. Its shape, and even its rank, may
            be unknown while tracing.
        gain: `[output_channels]`, or `None` for ones; with several output-channel axes it
            runs over their product in the kernel's own (row-major) order.
        variant: which published definition; it decides where epsilon goes, the variance's
            divisor and the scale:

            - `"bit"`: population variance plus epsilon, 1e-10
              ([Big Transfer](https://arxiv.org/abs/1912.11370));
            - `"timm"`: the same with 1e-6 (timm `StdConv2d`; its BiT and ViT-hybrid models 1e-8);
            - `"qiao"`: unbiased variance, epsilon 1e-5 added to the standard deviation
              ([Weight Standardization](https://arxiv.org/abs/1903.10520), PyTorch);
            - `"qiao_tf"`: population variance, epsilon 1e-5 added to the standard deviation
              (the same paper, TensorFlow);
            - `"nfnet"`: `(w - mean) * rsqrt(max(var * fan_in, 1e-4))`
              ([NFNets](https://arxiv.org/abs/2102.06171), ScaledWS);
            - `"timm_scaled"`: `"timm"` times `1 / sqrt(fan_in)` (timm `ScaledStdConv2d`).
        epsilon: `None` for the variant's own.
        axis: int or list of ints, the output-channel axes, which are not reduced.
        dtype: dtype of the result; `None` for that of `w`.

    Returns:
        A tensor of the shape of `w`.

    Raises:
        ValueError: for an argument outside of the above, and for a single weight per output
            channel, which has no unbiased variance, with `"qiao"`.
    """
    check_variant(variant, epsilon)
    w, reduced, _, from_view = _check_kernel(w, axis)
    attrs = resolve(variant, epsilon, _fan_in(w, reduced))
    compute = statistics_dtype(w)
    centered = center(tf.cast(w, compute), lambda t: mean_over(t, reduced))
    variance = _variance(centered, reduced, attrs["ddof"])
    scale = _rstd(variance, attrs["epsilon"], attrs["epsilon_mode"])
    scale *= attrs["scale"]
    if gain is not None:
        scale *= _per_output_channel(gain, "gain", w, reduced)
    return from_view(tf.cast(centered * scale, w.dtype if dtype is None else dtype))


def standardize_weights_grad(
    dw_hat, w, gain, mean, rstd, *, axis, epsilon, epsilon_mode, ddof, scale
):
    """The backward pass of weight standardization from saved statistics, as stock ops.

    Values and derivatives as in `group_norm_grad`: the values use `mean` and `rstd` as given,
    the derivatives with respect to `w` are total.

    Args:
        dw_hat: gradient of the standardized kernel, shape of `w`.
        w: the kernel.
        gain: `[O]` or `None`.
        mean: `[O]`, the saved mean.
        rstd: `[O]`, the saved reciprocal standard deviation, epsilon included.
        axis: int or list of ints, the output-channel axes.
        epsilon: the op's epsilon (not the variant's).
        epsilon_mode: `"add_to_variance"`, `"add_to_stddev"` or `"clamp_variance"`.
        ddof: 0 or 1; the variance divides by `fan_in - ddof`.
        scale: the op's constant factor.

    Returns:
        `(dw, dgain)` of the shapes and dtypes of `w` and `gain`; `None` for an absent gain.
    """
    w, reduced, to_view, from_view = _check_kernel(w, axis)
    dtype = statistics_dtype(w)
    wc = tf.cast(w, dtype)
    live_mean = mean_over(wc, reduced)
    variance = _variance(wc - live_mean, reduced, ddof)
    mean = _saved(_per_output_channel(mean, "mean", w, reduced), live_mean)
    live_rstd = _rstd(variance, epsilon, epsilon_mode)
    rstd = _saved(_per_output_channel(rstd, "rstd", w, reduced), live_rstd)
    centered = wc - mean
    dw_hat = tf.cast(to_view(dw_hat), dtype) * scale
    g = dw_hat if gain is None else dw_hat * _per_output_channel(gain, "gain", w, reduced)
    # dw = rstd * (g - mean(g)) + drstd/dvar * dvar/dw * sum(g * centered)
    if epsilon_mode == "add_to_stddev":
        drstd = tf.math.divide_no_nan(-tf.square(rstd), 2 * _safe_sqrt(variance))
    else:
        drstd = -0.5 * rstd * tf.square(rstd)
        if epsilon_mode == "clamp_variance":
            drstd = tf.where(variance > epsilon, drstd, tf.zeros_like(drstd))
    dvar = drstd * sum_over(g * centered, reduced)
    dw = rstd * (g - mean_over(g, reduced)) + centered * dvar * (2 / _divisor(w, reduced, ddof))
    dgain = None
    if gain is not None:
        dgain = sum_over(dw_hat * centered * rstd, reduced)
        dgain = tf.cast(tf.reshape(dgain, tf.shape(gain)), gain.dtype)
    return from_view(tf.cast(dw, w.dtype)), dgain


def _saved(value, live):
    """`value` in value, `live` to every derivative."""
    return tf.stop_gradient(value) + live_zero(live)


def _fan_in(w, reduced):
    """Weights per output channel, a float tensor where the shape does not tell."""
    sizes = [w.shape[i] for i in reduced]
    if None not in sizes:
        return math.prod(sizes)
    return tf.cast(tf.reduce_prod([dim(w, i) for i in reduced]), statistics_dtype(w))


def _divisor(w, reduced, ddof):
    fan_in = _fan_in(w, reduced)
    if tf.is_tensor(fan_in):
        return tf.maximum(fan_in - ddof, 1)
    if fan_in == ddof == 1:
        raise ValueError(
            "ddof must be 0 where an output channel has a single weight, but is 1 for w of shape "
            f"{w.shape}"
        )
    # The sum over no weights is 0 with any divisor.
    return max(fan_in - ddof, 1)


def _variance(centered, reduced, ddof):
    squares = tf.square(centered)
    if not ddof:
        return mean_over(squares, reduced)
    return sum_over(squares, reduced) / _divisor(centered, reduced, ddof)


def _safe_sqrt(x):
    """The square root with derivative 0, not infinity, at 0."""
    positive = x > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, tf.ones_like(x))), tf.zeros_like(x))


def _rstd(variance, epsilon, epsilon_mode):
    if epsilon_mode == "add_to_stddev":
        return 1 / (_safe_sqrt(variance) + epsilon)
    if epsilon_mode == "clamp_variance":
        return tf.math.rsqrt(tf.maximum(variance, epsilon))
    return tf.math.rsqrt(variance + epsilon)


def _per_output_channel(parameter, name, w, reduced):
    """`[O]` in the statistics' dtype, broadcastable to `w`."""
    parameter = tf.convert_to_tensor(parameter)
    kept = [size for i, size in enumerate(w.shape) if i not in reduced]
    outputs = None if None in kept else math.prod(kept)
    if not parameter.shape.is_compatible_with([outputs]):
        raise ValueError(
            f"`{name}` must have the shape (output channels,), here ({outputs},). "
            f"Received: {name}.shape={parameter.shape}"
        )
    shape = [1 if i in reduced else dim(w, i) for i in range(w.shape.rank)]
    return tf.cast(tf.reshape(parameter, shape), statistics_dtype(w))


def _check_kernel(w, axis):
    """Returns `w` with a known rank, the axes to reduce, and how to get to that rank and back."""
    w = check_float(w, "w")
    if w.shape.rank is None:
        to_view, from_view, axis = _matrix_view(w, axis)
    else:
        to_view = from_view = tf.identity
    w = to_view(w)
    rank = w.shape.rank
    kept = [axis] if isinstance(axis, int) else list(axis)
    if not kept or any(not -rank <= i < rank for i in kept):
        raise ValueError(
            "`axis` must name at least one axis of `w`. "
            f"Received: axis={axis} for w.shape={w.shape}"
        )
    kept = {i % rank for i in kept}
    return w, [i for i in range(rank) if i not in kept], to_view, from_view


def _matrix_view(w, axis):
    """How to make a kernel of unknown rank a matrix, how to undo it, and the matrix' `axis`."""
    shape, rank = tf.shape(w), tf.rank(w)
    kept = tf.constant([axis] if isinstance(axis, int) else list(axis), tf.int32)
    kept = tf.sort(tf.where(kept < 0, kept + rank, kept))
    reduced = tf.sets.difference([tf.range(rank)], [kept]).values
    order = tf.concat([kept, reduced], 0)
    matrix = [tf.reduce_prod(tf.gather(shape, axes)) for axes in (kept, reduced)]

    def from_view(t):
        t = tf.reshape(t, tf.gather(shape, order))
        return tf.transpose(t, tf.math.invert_permutation(order))

    return lambda t: tf.reshape(tf.transpose(t, order), matrix), from_view, 0
