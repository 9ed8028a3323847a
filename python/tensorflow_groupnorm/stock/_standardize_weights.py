"""Weight standardization and its backward pass in stock ops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf
from tfgn_base.variants import check_variant, resolve

from .._types import DType, TensorLike
from ._common import center, check_float, dim, live_zero, mean_over, statistics_dtype, sum_over

_View: TypeAlias = Callable[[tf.Tensor], tf.Tensor]


def standardize_weights(
    w: TensorLike,
    gain: TensorLike | None = None,
    *,
    variant: str = "bit",
    epsilon: float | None = None,
    axis: int | Sequence[int] = -1,
    dtype: DType | None = None,
) -> tf.Tensor:
    """Weight standardization of a kernel, in stock ops.

    `gain * scale * (w - mean) * rstd`, with `mean` and `rstd` taken per output channel: over all
    axes but `axis`. Statistics and arithmetic are float32 (float64 for a float64 `w`).

    Args:
        w: the kernel, float16, bfloat16, float32 or float64. While tracing, its shape may be
            unknown, and so may its rank.
        gain: `[output_channels]`, or `None` for ones. With several output-channel axes,
            `output_channels` is the product of their sizes, in the kernel's row-major order.
        variant: the published definition to follow. It sets the place of epsilon, the divisor of
            the variance and the scale:

            - `"bit"`: population variance plus epsilon, 1e-10
              ([Big Transfer](https://arxiv.org/abs/1912.11370));
            - `"timm"`: the same with 1e-6 (timm `StdConv2d`; its BiT and ViT-hybrid models use
              1e-8);
            - `"qiao"`: unbiased variance, epsilon 1e-5 added to the standard deviation
              ([Weight Standardization](https://arxiv.org/abs/1903.10520), PyTorch);
            - `"qiao_tf"`: population variance, epsilon 1e-5 added to the standard deviation
              (the same paper, TensorFlow);
            - `"nfnet"`: `(w - mean) * rsqrt(max(var * fan_in, 1e-4))`
              ([NFNets](https://arxiv.org/abs/2102.06171), ScaledWS);
            - `"timm_scaled"`: `"timm"` times `1 / sqrt(fan_in)` (timm `ScaledStdConv2d`).
        epsilon: `None` for the default of the variant.
        axis: int or list of ints, the output-channel axes, which are not reduced.
        dtype: dtype of the result; `None` for that of `w`.

    Returns:
        A tensor of the shape of `w`.

    Raises:
        ValueError: if an argument is not as described above, or if an output channel has a single
            weight with `"qiao"`: its unbiased variance is undefined.
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
    dw_hat: tf.Tensor,
    w: tf.Tensor,
    gain: tf.Tensor | None,
    mean: tf.Tensor,
    rstd: tf.Tensor,
    *,
    axis: int | Sequence[int],
    epsilon: float,
    epsilon_mode: str,
    ddof: int,
    scale: float,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """The backward pass of weight standardization from saved statistics, in stock ops.

    As in `group_norm_grad`, the values use `mean` and `rstd` as given, and the derivatives with
    respect to `w` are total.

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
        scale: the constant factor of the op.

    Returns:
        `(dw, dgain)` with the shapes and dtypes of `w` and `gain`; `dgain` is `None` if `gain` is.
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


def _saved(value: tf.Tensor, live: tf.Tensor) -> tf.Tensor:
    """Returns `value`, with the derivatives, of every order, of `live`."""
    return tf.stop_gradient(value) + live_zero(live)


def _fan_in(w: tf.Tensor, reduced: Sequence[int]) -> int | tf.Tensor:
    """The number of weights per output channel, a float tensor if the shape is not static."""
    sizes = [w.shape[i] for i in reduced]
    if None not in sizes:
        return math.prod(sizes)
    return tf.cast(tf.reduce_prod([dim(w, i) for i in reduced]), statistics_dtype(w))


def _divisor(w: tf.Tensor, reduced: Sequence[int], ddof: int) -> int | tf.Tensor:
    fan_in = _fan_in(w, reduced)
    if tf.is_tensor(fan_in):
        return tf.maximum(fan_in - ddof, 1)
    if fan_in == ddof == 1:
        raise ValueError(
            "ddof must be 0 where an output channel has a single weight, but is 1 for w of shape "
            f"{w.shape}"
        )
    # A sum over no weights is 0 whatever the divisor.
    return max(fan_in - ddof, 1)


def _variance(centered: tf.Tensor, reduced: Sequence[int], ddof: int) -> tf.Tensor:
    squares = tf.square(centered)
    if not ddof:
        return mean_over(squares, reduced)
    return sum_over(squares, reduced) / _divisor(centered, reduced, ddof)


def _safe_sqrt(x: tf.Tensor) -> tf.Tensor:
    """The square root, with the derivative 0 at 0 instead of infinity."""
    positive = x > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, tf.ones_like(x))), tf.zeros_like(x))


def _rstd(variance: tf.Tensor, epsilon: float, epsilon_mode: str) -> tf.Tensor:
    if epsilon_mode == "add_to_stddev":
        return 1 / (_safe_sqrt(variance) + epsilon)
    if epsilon_mode == "clamp_variance":
        return tf.math.rsqrt(tf.maximum(variance, epsilon))
    return tf.math.rsqrt(variance + epsilon)


def _per_output_channel(
    values: TensorLike, name: str, w: tf.Tensor, reduced: Sequence[int]
) -> tf.Tensor:
    """`[O]` in the dtype of the statistics, broadcastable to `w`."""
    parameter = tf.convert_to_tensor(values)
    kept = [size for i, size in enumerate(w.shape) if i not in reduced]
    outputs = None if None in kept else math.prod(kept)
    if not parameter.shape.is_compatible_with([outputs]):
        raise ValueError(
            f"`{name}` must have the shape (output channels,), here ({outputs},). "
            f"Received: {name}.shape={parameter.shape}"
        )
    shape = [1 if i in reduced else dim(w, i) for i in range(w.shape.rank)]
    return tf.cast(tf.reshape(parameter, shape), statistics_dtype(w))


def _check_kernel(
    w: TensorLike, axis: int | Sequence[int]
) -> tuple[tf.Tensor, list[int], _View, _View]:
    """Returns `w` in a view of known rank, the axes to reduce, and how to view and undo it."""
    w = check_float(w, "w")
    if w.shape.rank is None:
        to_view, from_view, axis = _matrix_view(w, axis)
    else:
        to_view = from_view = tf.identity
    w = to_view(w)
    rank = w.shape.rank
    axes = [axis] if isinstance(axis, int) else list(axis)
    if not axes or any(not -rank <= i < rank for i in axes):
        raise ValueError(
            "`axis` must name at least one axis of `w`. "
            f"Received: axis={axis} for w.shape={w.shape}"
        )
    kept = {i % rank for i in axes}
    return w, [i for i in range(rank) if i not in kept], to_view, from_view


def _matrix_view(w: tf.Tensor, axis: int | Sequence[int]) -> tuple[_View, _View, int]:
    """How to view a kernel of unknown rank as a matrix, how to undo it, and the matrix's `axis`."""
    shape, rank = tf.shape(w), tf.rank(w)
    kept = tf.constant([axis] if isinstance(axis, int) else list(axis), tf.int32)
    kept = tf.sort(tf.where(kept < 0, kept + rank, kept))
    reduced = tf.sets.difference([tf.range(rank)], [kept]).values
    order = tf.concat([kept, reduced], 0)
    matrix = [tf.reduce_prod(tf.gather(shape, axes)) for axes in (kept, reduced)]

    def from_view(t: tf.Tensor) -> tf.Tensor:
        t = tf.reshape(t, tf.gather(shape, order))
        return tf.transpose(t, tf.math.invert_permutation(order))

    return lambda t: tf.reshape(tf.transpose(t, order), matrix), from_view, 0
