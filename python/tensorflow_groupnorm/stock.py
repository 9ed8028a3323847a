"""GroupNorm and weight standardization in stock TensorFlow ops only.

The same functions, with the same signatures, as the fused `tensorflow_groupnorm.group_norm`
and `tensorflow_groupnorm.standardize_weights`. They run on any device, compile under XLA,
convert to TFLite and ONNX, and are differentiable to any order. The layers use them where no
fused library is loaded; the fused ops' second-order gradients are built from the `*_grad`
functions below.

Reductions go axis by axis. One pass over several axes would make TensorFlow transpose the
tensor first and would add all elements of a group into a single float32.
"""

import math

import tensorflow as tf

from .variants import check_variant, resolve

FLOAT_DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
ACTIVATIONS = ("linear", "relu", "silu")


def group_norm(
    x,
    gamma=None,
    beta=None,
    groups=32,
    *,
    axis=-1,
    epsilon=1e-3,
    activation=None,
    residual=None,
):
    """Group normalization with optional residual and activation, in stock ops.

    `activation((x - mean) * rstd * gamma + beta + residual)`, where `mean` and
    `rstd = 1 / sqrt(var + epsilon)` are over each sample and group: over `channels / groups`
    consecutive channels and all axes other than the batch and the channel axis. Statistics
    and arithmetic are float32 (float64 for a float64 `x`).

    Args:
        x: float16, bfloat16, float32 or float64 tensor of rank >= 2; axis 0 is the batch.
            All but the rank may be unknown while tracing.
        gamma: scale, `[channels]` or, per sample, `[batch, channels]`; `None` for ones.
        beta: shift, `[channels]` or, per sample, `[batch, channels]`; `None` for zeros.
        groups: number of groups, a divisor of `channels`.
        axis: the channel axis, any but 0.
        epsilon: added to the variance.
        activation: `None` or `"linear"`, `"relu"`, `"silu"`.
        residual: tensor of the shape and dtype of `x`, added before the activation, or `None`.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        ValueError: for an argument outside of the above.

    Reference:
        [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494).
    """
    x, axis = _check_input(x, groups, axis)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"`epsilon` must be a finite number >= 0. Received: epsilon={epsilon!r}")
    activation = _check_activation(activation)
    residual = _check_residual(residual, x)
    dtype = _statistics_dtype(x)
    centered = _center(tf.cast(x, dtype), lambda t: _group_mean(t, groups, axis))
    variance = _group_mean(tf.square(centered), groups, axis)
    scale = tf.math.rsqrt(variance + tf.constant(epsilon, dtype))
    if gamma is not None:
        scale *= _per_channel(gamma, "gamma", x, axis)
    y = centered * scale
    if beta is not None:
        y += _per_channel(beta, "beta", x, axis)
    if residual is not None:
        y += tf.cast(residual, dtype)
    if activation == "relu":
        y = tf.nn.relu(y)
    elif activation == "silu":
        y *= tf.sigmoid(y)
    return tf.ensure_shape(tf.cast(y, x.dtype), x.shape)


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
    compute = _statistics_dtype(w)
    centered = _center(tf.cast(w, compute), lambda t: _mean(t, reduced))
    variance = _variance(centered, reduced, attrs["ddof"])
    scale = _rstd(variance, attrs["epsilon"], attrs["epsilon_mode"])
    scale *= attrs["scale"]
    if gain is not None:
        scale *= _per_output_channel(gain, "gain", w, reduced)
    return from_view(tf.cast(centered * scale, w.dtype if dtype is None else dtype))


def group_norm_grad(dy, x, gamma, beta, mean, rstd, side, *, groups, axis, activation):
    """The backward pass of `group_norm` from saved statistics, as explicit stock ops.

    The values are those of the GroupNormGrad op: they use `mean` and `rstd` as given.
    Derivatives of the result with respect to `x` are total, that is, they include the
    statistics' dependence on `x`, so that differentiating once more gives the second-order
    gradients of `group_norm`.

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
        activation: `None` or `"linear"`, `"relu"`, `"silu"`.

    Returns:
        `(dx, dgamma, dbeta, dside)` of the shapes and dtypes of `x`, `gamma`, `beta`, `side`;
        `None` for what is absent.
    """
    x, axis = _check_input(x, groups, axis)
    activation = _check_activation(activation)
    dtype = _statistics_dtype(x)
    xc = tf.cast(x, dtype)
    live_mean = _group_mean(xc, groups, axis)
    mean = _per_group(tf.stop_gradient(mean), xc, groups, axis) + _live_zero(live_mean)
    variance = _group_mean(tf.square(xc - live_mean), groups, axis)
    rstd = _per_group(tf.stop_gradient(rstd), xc, groups, axis)
    # (var + epsilon)^-1/2 around the saved rstd = (var0 + epsilon)^-1/2.
    rstd /= tf.sqrt(1 + tf.square(rstd) * _live_zero(variance))
    x_hat = (xc - mean) * rstd
    scale = None if gamma is None else _per_channel(gamma, "gamma", x, axis)
    dh = tf.cast(dy, dtype)
    if activation != "linear":
        h = x_hat if scale is None else x_hat * scale
        if beta is not None:
            h += _per_channel(beta, "beta", x, axis)
        if side is not None:
            h += tf.cast(side, dtype)
        dh *= _activation_derivative(h, activation)
    dx_hat = dh if scale is None else dh * scale
    dx = dx_hat - _group_mean(dx_hat, groups, axis)
    dx = rstd * (dx - x_hat * _group_mean(dx_hat * x_hat, groups, axis))
    return (
        tf.cast(dx, x.dtype),
        None if gamma is None else _sum_to_parameter(dh * x_hat, gamma, axis),
        None if beta is None else _sum_to_parameter(dh, beta, axis),
        None if side is None else tf.cast(dh, side.dtype),
    )


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
    dtype = _statistics_dtype(w)
    wc = tf.cast(w, dtype)
    live_mean = _mean(wc, reduced)
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
    dvar = drstd * _sum(g * centered, reduced)
    dw = rstd * (g - _mean(g, reduced)) + centered * dvar * (2 / _divisor(w, reduced, ddof))
    dgain = None
    if gain is not None:
        dgain = _sum(dw_hat * centered * rstd, reduced)
        dgain = tf.cast(tf.reshape(dgain, tf.shape(gain)), gain.dtype)
    return from_view(tf.cast(dw, w.dtype)), dgain


def _statistics_dtype(x):
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _mean(x, axes):
    for axis in axes:
        size = x.shape[axis]
        if size:
            x = tf.reduce_mean(x, axis, keepdims=True)
        else:  # The mean of nothing is 0, as in the fused op, not NaN.
            size = tf.cast(tf.maximum(tf.shape(x)[axis], 1), x.dtype)
            x = tf.reduce_sum(x, axis, keepdims=True) / size
    return x


def _sum(x, axes):
    for axis in axes:
        x = tf.reduce_sum(x, axis, keepdims=True)
    return x


def _center(x, mean):
    """`x - mean(x)`, without the rounding error of a single float32 mean.

    A constant shift changes neither the result nor any derivative, hence stop_gradient.
    """
    x -= tf.stop_gradient(mean(x))
    return x - mean(x)


def _live_zero(x):
    """Zero in value, `x` to every derivative."""
    return x - tf.stop_gradient(x)


def _saved(value, live):
    """`value` in value, `live` to every derivative."""
    return tf.stop_gradient(value) + _live_zero(live)


def _dim(x, axis):
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def _group_mean(x, groups, axis):
    """The mean of each sample and group, one value per channel, broadcastable to `x`."""
    mean = _mean(x, [i for i in range(1, x.shape.rank) if i != axis])
    mean = tf.reshape(mean, [_dim(x, 0), groups, _dim(x, axis) // groups])
    return _per_group(tf.reduce_mean(mean, 2), x, groups, axis)


def _per_group(statistic, x, groups, axis):
    """`[N, groups]` repeated to one value per channel, broadcastable to `x`."""
    batch, channels = _dim(x, 0), _dim(x, axis)
    statistic = tf.tile(statistic[:, :, tf.newaxis], [1, 1, channels // groups])
    shape = [batch] + [1] * (x.shape.rank - 1)
    shape[axis] = channels
    return tf.reshape(statistic, shape)


def _per_channel(parameter, name, x, axis):
    """`[C]` or `[N, C]` in the statistics' dtype, broadcastable to `x`."""
    parameter = tf.convert_to_tensor(parameter)
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
    shape[axis] = _dim(parameter, -1)
    if parameter.shape.rank == 2:
        shape[0] = _dim(parameter, 0)
    return tf.cast(tf.reshape(parameter, shape), _statistics_dtype(x))


def _sum_to_parameter(x, parameter, axis):
    """Sums `x` to the shape and dtype of a `[C]` or `[N, C]` parameter."""
    kept = (axis,) if parameter.shape.rank == 1 else (0, axis)
    total = _sum(x, [i for i in range(x.shape.rank) if i not in kept])
    return tf.cast(tf.reshape(total, tf.shape(parameter)), parameter.dtype)


def _activation_derivative(h, activation):
    if activation == "relu":
        return tf.cast(h > 0, h.dtype)
    sigmoid = tf.sigmoid(h)
    return sigmoid * (1 + h * (1 - sigmoid))


def _fan_in(w, reduced):
    """Weights per output channel, a float tensor where the shape does not tell."""
    sizes = [w.shape[i] for i in reduced]
    if None not in sizes:
        return math.prod(sizes)
    return tf.cast(tf.reduce_prod([_dim(w, i) for i in reduced]), _statistics_dtype(w))


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
        return _mean(squares, reduced)
    return _sum(squares, reduced) / _divisor(centered, reduced, ddof)


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
    shape = [1 if i in reduced else _dim(w, i) for i in range(w.shape.rank)]
    return tf.cast(tf.reshape(parameter, shape), _statistics_dtype(w))


def _check_float(x, name):
    x = tf.convert_to_tensor(x)
    if x.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"`{name}` must be float16, bfloat16, float32 or float64. "
            f"Received: {name}.dtype={x.dtype.name}"
        )
    return x


def _check_input(x, groups, axis):
    """Returns `x` as a tensor and the channel axis counted from 0."""
    x = _check_float(x, "x")
    rank = x.shape.rank
    if rank is None or rank < 2:
        raise ValueError(f"`x` must have a known rank >= 2. Received: x.shape={x.shape}")
    if not -rank < axis < rank or axis == 0:
        raise ValueError(
            f"`axis` must be a channel axis of `x` other than the batch axis 0. "
            f"Received: axis={axis} for x.shape={x.shape}"
        )
    channels = x.shape[axis]
    if groups < 1 or (channels is not None and channels % groups):
        raise ValueError(
            "`groups` must be >= 1 and divide the number of channels. "
            f"Received: groups={groups} for {channels} channels"
        )
    return x, axis % rank


def _check_activation(activation):
    activation = "linear" if activation is None else activation
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"`activation` must be None, 'linear', 'relu' or 'silu'. "
            f"Received: activation={activation!r}"
        )
    return activation


def _check_residual(residual, x):
    if residual is None:
        return None
    residual = tf.convert_to_tensor(residual)
    if residual.dtype != x.dtype or not residual.shape.is_compatible_with(x.shape):
        raise ValueError(
            f"`residual` must have the shape and dtype of `x`, {x.shape} and {x.dtype.name}. "
            f"Received: residual.shape={residual.shape}, residual.dtype={residual.dtype.name}"
        )
    return residual


def _check_kernel(w, axis):
    """Returns `w` with a known rank, the axes to reduce, and how to get to that rank and back."""
    w = _check_float(w, "w")
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
