"""Writes group normalizations in a graph in the form that LiteRT's composite of them has."""

from __future__ import annotations

import tensorflow as tf

from .. import ops, stock
from .._types import FusedActivation, TensorLike
from ..stock._common import check_float
from ..stock._group_norm import activate, number_of_groups

# LiteRT's GPU delegate takes no tensor of more axes.
_MOST_AXES = 4


class GroupNormWriter:
    """Takes the place of `ops.group_norm` while a model is traced for LiteRT.

    The composite has a scale and a shift per channel that are constants. It becomes a GroupNorm op.
    Whatever follows it becomes stock ops: parameters per sample or that depend on the input, the
    residual, the activation. A normalization that the composite cannot express is written in stock
    ops as a whole.

    Attributes:
        unfused: a dict from the name scopes of those in stock ops to the reasons.
    """

    def __init__(self) -> None:
        self.unfused: dict[str, str] = {}

    def __call__(
        self,
        x: TensorLike,
        gamma: TensorLike | None = None,
        beta: TensorLike | None = None,
        groups: int = 32,
        *,
        axis: int = -1,
        epsilon: float = 1e-3,
        activation: FusedActivation | None = None,
        residual: TensorLike | None = None,
        mask: TensorLike | None = None,
    ) -> tf.Tensor:
        """Writes a call of `ops.group_norm`, with arguments that the op has accepted."""
        x = check_float(x, "x")
        reason = "it has a mask" if mask is not None else _reason(x, groups, axis)
        if reason:
            self.unfused[tf.get_current_name_scope()] = reason
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
        scale, shift, gamma, beta = _inside_and_behind(x, gamma, beta)
        y: tf.Tensor = ops.raw_ops.GroupNorm(
            x=x,
            gamma=scale,
            beta=shift,
            side_input=[],
            groups=number_of_groups(groups, x.shape[-1]),
            epsilon=epsilon,
            axis=x.shape.rank - 1,
        ).y
        if gamma is not None:
            y *= _spread(gamma, x)
        if beta is not None:
            y += _spread(beta, x)
        if residual is not None:
            y += tf.convert_to_tensor(residual, x.dtype)
        return activate(y, activation or "linear")


def _reason(x: tf.Tensor, groups: int, axis: int) -> str | None:
    """Returns why a composite cannot express a normalization, or None if it can."""
    rank = x.shape.rank
    if ops.uses_stock():
        return "the op library is not loaded"
    if rank is None or not 2 <= rank <= _MOST_AXES:
        axes = "an unknown number of" if rank is None else rank
        return f"it has {axes} axes, and LiteRT's composite 2 to {_MOST_AXES}"
    if axis not in (-1, rank - 1):
        return "its channels are not on the last axis"
    if x.shape[-1] is None:
        return "the number of its channels is unknown"
    if x.dtype != tf.float32:
        return f"it computes in {x.dtype.name}"
    if number_of_groups(groups, x.shape[-1]) == 1 and rank > 2:
        # Qualcomm's compiler then normalizes over the last axis alone.
        return "it has one group, which a compiler of LiteRT takes for a layer normalization"
    return None


def _inside_and_behind(
    x: tf.Tensor, gamma: TensorLike | None, beta: TensorLike | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Returns the scale and the shift of the composite, and those to apply behind it.

    LiteRT's GPU delegate reads beyond absent parameters: there are always two, ones and zeros.
    """
    gamma, beta = (None if p is None else tf.cast(p, tf.float32) for p in (gamma, beta))
    scale, shift = tf.ones([x.shape[-1]]), tf.zeros([x.shape[-1]])
    if gamma is None or _is_constant_per_channel(gamma):
        scale, gamma = scale if gamma is None else gamma, None
        if beta is not None and _is_constant_per_channel(beta):
            shift, beta = beta, None
    return scale, shift, gamma, beta


def _spread(parameter: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns a parameter per channel, or per sample and channel, that broadcasts to `x`."""
    if parameter.shape.rank == 1:
        return parameter
    return tf.reshape(parameter, [-1, *[1] * (x.shape.rank - 2), x.shape[-1]])


def _is_constant_per_channel(parameter: tf.Tensor) -> bool:
    """Whether a parameter has one axis, and depends on constants and variables alone."""
    if parameter.shape.rank != 1:
        return False
    todo, seen = [parameter.op] if tf.is_symbolic_tensor(parameter) else [], set()
    while todo:
        op = todo.pop()
        # A variable of another graph is a placeholder of a resource.
        if op.type == "Placeholder" and op.outputs[0].dtype != tf.resource:
            return False
        seen.add(op.name)
        todo += [tensor.op for tensor in op.inputs if tensor.op.name not in seen]
    return True
