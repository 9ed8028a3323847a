"""The gradients of the fused ops, registered with TensorFlow, and those of the gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from . import _library, stock

_OPS: Any = _library.load()
_View: TypeAlias = Callable[[tf.Tensor], tf.Tensor]


@tf.RegisterGradient("GroupNorm")
def _group_norm_grad(op: tf.Operation, dy: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor]:
    # Only y is differentiable: the gradients of the statistics are dropped.
    x, gamma, beta, *side_input = op.inputs
    _, mean, rstd, *rest = op.outputs
    # Without an activation, the gradient of the side input is dy, and nothing needs its value.
    linear = tf.compat.as_str(op.get_attr("activation")) == "linear"
    dx, dgamma, dbeta, dside, _ = _OPS.group_norm_grad(
        dy,
        x,
        gamma,
        beta,
        mean,
        rstd,
        [] if linear else side_input,
        rest,
        groups=op.get_attr("groups"),
        axis=op.get_attr("axis"),
        activation=op.get_attr("activation"),
    )
    return [dx, dgamma, dbeta, *([dy] * len(side_input) if linear else dside)]


@tf.RegisterGradient("GroupNormGrad")
def _group_norm_grad_grad(op: tf.Operation, *output_gradients: tf.Tensor) -> list[tf.Tensor | None]:
    dy, x, gamma, beta, mean, rstd, *others = op.inputs
    side_input = others[: op.get_attr("num_side_inputs")]
    with_y = bool(op.get_attr("with_y"))
    to_view, from_view, axis = _known_rank(x, op.get_attr("axis"))

    def backward(
        dy: tf.Tensor,
        x: tf.Tensor,
        gamma: tf.Tensor | None,
        beta: tf.Tensor | None,
        *side_input: tf.Tensor,
    ) -> tuple[tf.Tensor | None, ...]:
        dx, dgamma, dbeta, dside, y = stock.group_norm_grad(
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
        of_sides = [] if dside is None else [from_view(dside)]
        return from_view(dx), dgamma, dbeta, *of_sides, *([from_view(y)] if with_y else [])

    ddy, dx, dgamma, dbeta, *dside = _vjp(
        backward, (dy, x, gamma, beta, *side_input), output_gradients
    )
    # mean, rstd and what they lost are functions of x: dx includes the gradient through them.
    of_rests = [None] * (len(others) - len(side_input))
    return [ddy, dx, dgamma, dbeta, None, None, *dside, *of_rests]


def _known_rank(x: tf.Tensor, axis: int) -> tuple[_View, _View, int]:
    """How to view tensors shaped like `x` with a static rank, how to undo it, and the channel axis.

    After many shapes, TensorFlow traces the forward mode of an op for an unknown rank.
    """
    if x.shape.rank is not None:
        return tf.identity, tf.identity, axis
    shape = tf.shape(x)
    before, after = shape[1:axis], shape[axis:][1:]
    view = [shape[0], tf.reduce_prod(before), shape[axis], tf.reduce_prod(after)]
    return lambda t: tf.reshape(t, view), lambda t: tf.reshape(t, shape), 2


@tf.RegisterGradient("StandardizeWeights")
def _standardize_weights_grad(
    op: tf.Operation, dw_hat: tf.Tensor, *_: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    w, gain = op.inputs
    _, mean, rstd = op.outputs
    return _OPS.standardize_weights_grad(dw_hat, w, gain, mean, rstd, **_standardization(op))


@tf.RegisterGradient("StandardizeWeightsGrad")
def _standardize_weights_grad_grad(
    op: tf.Operation, *output_gradients: tf.Tensor
) -> list[tf.Tensor | None]:
    dw_hat, w, gain, mean, rstd = op.inputs
    attrs = _standardization(op)
    attrs["epsilon_mode"] = tf.compat.as_str(attrs["epsilon_mode"])

    def backward(
        dw_hat: tf.Tensor, w: tf.Tensor, gain: tf.Tensor | None
    ) -> tuple[tf.Tensor | None, ...]:
        return stock.standardize_weights_grad(dw_hat, w, gain, mean, rstd, **attrs)

    # mean and rstd are functions of w, whose gradient includes the one through them.
    return [*_vjp(backward, (dw_hat, w, gain), output_gradients), None, None]


@tf.RegisterGradient("OptimizationBarrier")
def _optimization_barrier_grad(_: tf.Operation, dy: tf.Tensor) -> list[tf.Tensor | None]:
    return [dy, None]


def _standardization(op: tf.Operation) -> dict[str, Any]:
    return {
        name: op.get_attr(name) for name in ("axis", "epsilon", "epsilon_mode", "ddof", "scale")
    }


def _vjp(
    function: Callable[..., tuple[tf.Tensor | None, ...]],
    inputs: Sequence[tf.Tensor],
    output_gradients: Sequence[tf.Tensor],
) -> list[tf.Tensor | None]:
    """The vector-Jacobian product of a backward pass in stock ops.

    An input of shape [0] is absent: the function gets `None`, and so does its gradient. The
    function returns `None` for the outputs that belong to it.
    """
    # Copies are distinct also if a caller passes one tensor twice, such as x as its own residual.
    present = [None if tensor.shape == [0] else tf.identity(tensor) for tensor in inputs]
    sources = [tensor for tensor in present if tensor is not None]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        outputs = function(*present)
    pairs = zip(outputs, output_gradients, strict=True)
    targets, seeds = zip(*((y, dy) for y, dy in pairs if y is not None), strict=True)
    gradients = iter(tape.gradient(targets, sources, seeds))
    return [None if tensor is None else next(gradients) for tensor in present]
