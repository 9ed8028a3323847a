"""The fused ops: as functions, as raw ops, and their gradients."""

import math

import keras
import tensorflow as tf
from tfgn_base.variants import resolve

from . import _export_mode, _library, stock
from .stock._common import check_float
from .stock._group_norm import number_of_groups

_OPS = _library.load()


class _RawOps:
    """The ops as they are, called like those of `tf.raw_ops`: with keyword arguments only.

    `GroupNorm`, `GroupNormGrad`, `StandardizeWeights` and `StandardizeWeightsGrad`; `help()` of
    each tells its arguments, with shapes and types, its attributes and its outputs. An argument
    that an op does not accept is a `tf.errors.InvalidArgumentError`, or a `ValueError` where a
    graph is being built.

    Raises:
        ImportError: where the op library could not be loaded, with the reason.
    """

    def __getattr__(self, name):
        if name not in _library.OPS:
            raise AttributeError(f"raw_ops has {', '.join(_library.OPS)}, but no {name}")
        if _OPS is None:
            raise ImportError(_library.load_error())
        return getattr(_OPS, name)

    def __dir__(self):
        return _library.OPS


raw_ops = _RawOps()


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
    mask=None,
):
    """Group normalization with optional residual and activation, in one fused op.

    `activation((x - mean) * rstd * gamma + beta + residual)`, where `mean` and
    `rstd = 1 / sqrt(var + epsilon)` are over each sample and group: over `channels / groups`
    consecutive channels and all axes other than the batch and the channel axis. Statistics
    and arithmetic are float32 (float64 for a float64 `x`). The result is bit-identical from run
    to run, for any number of threads, and under `jit_compile=True`.

    Differentiable to any order, in reverse and in forward mode; beyond the first order the
    gradients are computed in stock TensorFlow ops. Where the op library could not be loaded this
    is `tensorflow_groupnorm.stock.group_norm`.

    With a `mask` the statistics are over the positions where it is true, and the result is 0 at
    the others. What `x` and `residual` hold there, NaN included, changes neither the result nor
    any gradient. The statistics of a group without any position are mean 0 and variance 0. The
    op takes no mask: this case is computed in stock TensorFlow ops.

    Args:
        x: float16, bfloat16, float32 or float64 tensor of rank >= 2; axis 0 is the batch. It may
            have no elements.
        gamma: scale, `[channels]` or, per sample, `[batch, channels]`; `None` for ones.
        beta: shift, `[channels]` or, per sample, `[batch, channels]`; `None` for zeros.
        groups: number of groups, a divisor of `channels`. 1 is layer normalization over channels
            and space; `channels`, or -1, is instance normalization.
        axis: the channel axis, any but 0.
        epsilon: added to the variance, as a float32.
        activation: `None` or `"linear"`, `"relu"`, `"silu"`.
        residual: tensor of the shape and dtype of `x`, added before the activation, or `None`. The
            op calls it `side_input`.
        mask: boolean tensor, true for what counts, or `None`. `[batch, steps]`, `[batch, height,
            width]`, ...: its axes are the first ones of `x` other than the channel axis. Or as
            many axes as `x`. An axis of size 1 is broadcast.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        tf.errors.InvalidArgumentError: for an argument outside of the above; a `ValueError` with
            the same sentence where a graph is being built, and for an `x` that is not a float, a
            residual of another dtype or a mask of another shape.

    Reference:
        [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494).
    """
    if _use_stock() or mask is not None:
        return stock.group_norm(
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
    x = check_float(x, "x")
    dtype = _parameter_dtype(x)
    return _OPS.group_norm(
        x,
        _parameter(gamma, dtype),
        _parameter(beta, dtype),
        [] if residual is None else [tf.convert_to_tensor(residual, x.dtype)],
        groups=_as_many_as_channels(x, axis) if groups == -1 else groups,
        epsilon=epsilon,
        axis=axis,
        activation="linear" if activation is None else activation,
    ).y


def standardize_weights(w, gain=None, *, variant="bit", epsilon=None, axis=-1, dtype=None):
    """Weight standardization of a kernel, in one fused op.

    `gain * scale * (w - mean) * rstd` with the statistics of each output channel, that is,
    over all axes other than `axis`. Statistics and arithmetic are float32 (float64 for a
    float64 `w`). The result is bit-identical from run to run, for any number of threads, and under
    `jit_compile=True`.

    Differentiable to any order, in reverse and in forward mode; beyond the first order the
    gradients are computed in stock TensorFlow ops. Where the op library could not be loaded this
    is `tensorflow_groupnorm.stock.standardize_weights`.

    Args:
        w: the kernel, float16, bfloat16, float32 or float64, of static shape.
        gain: `[output_channels]`, or `None` for ones; with several output-channel axes it
            runs over their product in the kernel's own (row-major) order.
        variant: which published definition, see `tensorflow_groupnorm.stock.standardize_weights`:
            `"bit"`, `"timm"`, `"qiao"`, `"qiao_tf"`, `"nfnet"` or `"timm_scaled"`.
        epsilon: `None` for the variant's own. The op holds it as a float32.
        axis: int or list of ints, the output-channel axes, which are not reduced.
        dtype: dtype of the result; `None` for that of `w`. Mixed precision reads a float32
            kernel and writes a float16 or bfloat16 one in the same pass. float64 goes with a
            float64 `w` only.

    Returns:
        A tensor of the shape of `w`.

    Raises:
        ValueError: for an unknown variant, an epsilon below 0 or a `w` without static shape.
        tf.errors.InvalidArgumentError: for another argument outside of the above; a `ValueError`
            with the same sentence where a graph is being built.

    Reference:
        [Qiao et al., 2019, Micro-Batch Training with Batch-Channel Normalization and Weight
        Standardization](https://arxiv.org/abs/1903.10520).
    """
    if _are_variables(w, gain):
        return _export_mode.folded(
            lambda: _standardize_weights(w, gain, variant, epsilon, axis, dtype)
        )
    return _standardize_weights(w, gain, variant, epsilon, axis, dtype)


def _standardize_weights(w, gain, variant, epsilon, axis, dtype):
    if _use_stock():
        return stock.standardize_weights(
            w, gain, variant=variant, epsilon=epsilon, axis=axis, dtype=dtype
        )
    w = tf.convert_to_tensor(w)
    axis = [axis] if isinstance(axis, int) else list(axis)
    attrs = resolve(variant, epsilon, _fan_in(w.shape, axis))
    return _OPS.standardize_weights(
        w,
        _parameter(gain, _parameter_dtype(w)),
        Tout=w.dtype if dtype is None else dtype,
        axis=axis,
        **attrs,
    ).w_hat


def _as_many_as_channels(x, axis):
    """An axis out of range is left for the op to name."""
    rank = x.shape.rank
    if rank is not None and not -rank <= axis < rank:
        return -1
    return number_of_groups(-1, None if rank is None else x.shape[axis])


def _use_stock():
    return _OPS is None or _export_mode.stock_ops()


def _are_variables(*values):
    return all(v is None or isinstance(v, (tf.Variable, keras.Variable)) for v in values)


def _parameter_dtype(x):
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _parameter(value, dtype):
    # To the ops, a tensor of shape [0] is an absent one.
    return tf.constant([], dtype) if value is None else tf.cast(value, dtype)


def _fan_in(shape, axis):
    """Weights per output channel. An axis out of range is left for the op to name."""
    if not shape.is_fully_defined():
        raise ValueError(f"`w` must have a static shape. Received: w.shape={shape}")
    kept = {i + shape.rank if i < 0 else i for i in axis}
    return math.prod(size for i, size in enumerate(shape) if i not in kept)


@tf.RegisterGradient("GroupNorm")
def _group_norm_grad(op, dy, *_):
    # The gradients of the statistics are dropped: only y is meant to be differentiated.
    x, gamma, beta, *side_input = op.inputs
    _, mean, rstd = op.outputs
    dx, dgamma, dbeta, dside = _OPS.group_norm_grad(
        dy,
        x,
        gamma,
        beta,
        mean,
        rstd,
        side_input,
        groups=op.get_attr("groups"),
        axis=op.get_attr("axis"),
        activation=op.get_attr("activation"),
    )
    return [dx, dgamma, dbeta, *dside]


@tf.RegisterGradient("GroupNormGrad")
def _group_norm_grad_grad(op, *output_gradients):
    dy, x, gamma, beta, mean, rstd, *side_input = op.inputs
    to_view, from_view, axis = _known_rank(x, op.get_attr("axis"))

    def backward(dy, x, gamma, beta, *side_input):
        dx, dgamma, dbeta, dside = stock.group_norm_grad(
            to_view(dy),
            to_view(x),
            gamma,
            beta,
            mean,
            rstd,
            to_view(side_input[0]) if side_input else None,
            groups=op.get_attr("groups"),
            axis=axis,
            activation=tf.compat.as_str(op.get_attr("activation")),
        )
        return from_view(dx), dgamma, dbeta, None if dside is None else from_view(dside)

    ddy, dx, dgamma, dbeta, *dside = _vjp(
        backward, (dy, x, gamma, beta, *side_input), output_gradients
    )
    # mean and rstd are functions of x: what goes through them is in dx.
    return [ddy, dx, dgamma, dbeta, None, None, *dside]


def _known_rank(x, axis):
    """How to give tensors like `x` a rank that stock ops can work with, and where channels are.

    TensorFlow traces the forward mode of an op for an unknown rank once it has met many shapes.
    """
    if x.shape.rank is not None:
        return tf.identity, tf.identity, axis
    shape = tf.shape(x)
    before, after = shape[1:axis], shape[axis:][1:]
    view = [shape[0], tf.reduce_prod(before), shape[axis], tf.reduce_prod(after)]
    return lambda t: tf.reshape(t, view), lambda t: tf.reshape(t, shape), 2


@tf.RegisterGradient("StandardizeWeights")
def _standardize_weights_grad(op, dw_hat, *_):
    w, gain = op.inputs
    _, mean, rstd = op.outputs
    return _OPS.standardize_weights_grad(dw_hat, w, gain, mean, rstd, **_standardization(op))


@tf.RegisterGradient("StandardizeWeightsGrad")
def _standardize_weights_grad_grad(op, *output_gradients):
    dw_hat, w, gain, mean, rstd = op.inputs
    attrs = _standardization(op)
    attrs["epsilon_mode"] = tf.compat.as_str(attrs["epsilon_mode"])

    def backward(dw_hat, w, gain):
        return stock.standardize_weights_grad(dw_hat, w, gain, mean, rstd, **attrs)

    # mean and rstd are functions of w: what goes through them is in the gradient of w.
    return [*_vjp(backward, (dw_hat, w, gain), output_gradients), None, None]


def _standardization(op):
    return {
        name: op.get_attr(name) for name in ("axis", "epsilon", "epsilon_mode", "ddof", "scale")
    }


def _vjp(function, inputs, output_gradients):
    """The vector-Jacobian product of a backward pass in stock ops.

    An input of shape [0] is an absent one: `None` to the function, without a gradient. The
    outputs that belong to it are `None` in turn.
    """
    # The copies tell apart what a caller gave twice, a residual that is x, say.
    present = [None if tensor.shape == [0] else tf.identity(tensor) for tensor in inputs]
    sources = [tensor for tensor in present if tensor is not None]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        outputs = function(*present)
    # Without a side input the last output has no counterpart.
    pairs = zip(outputs, output_gradients, strict=False)
    targets, seeds = zip(*((y, dy) for y, dy in pairs if y is not None), strict=True)
    gradients = iter(tape.gradient(targets, sources, seeds))
    return [None if tensor is None else next(gradients) for tensor in present]
