"""How `tf.vectorized_map` and the Jacobians of a tape run an op for all iterations in one call.

TensorFlow asks for a converter by the type of an op. Its inputs are stacked, with the iterations
along a new first axis, or the same for all iterations, and so are the outputs it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# There is no public way to register a converter.
from tensorflow.python.ops.parallel_for import pfor

from . import _library

_OPS: Any = _library.load()


@pfor.RegisterPFor("GroupNorm")
def _group_norm(call: Any) -> list[Any]:
    call.stack_inputs([0, *range(3, call.num_inputs)])
    x = call.stacked_input(0)
    y, mean, rstd, rest = _OPS.group_norm(
        _merge(x),
        _scale_or_shift(call, 1, x, shared=True),
        _scale_or_shift(call, 2, x, shared=True),
        [_merge(call.stacked_input(i)) for i in range(3, call.num_inputs)],
        **_attributes(call, "groups", "epsilon", "axis", "activation", "with_rest"),
    )
    return _stacked([y, mean, rstd, *rest], x)


@pfor.RegisterPFor("GroupNormGrad")
def _group_norm_grad(call: Any) -> list[Any]:
    tensors = [0, 1, *range(4, call.num_inputs)]
    call.stack_inputs(tensors)
    x = call.stacked_input(1)
    dy, _, mean, rstd, *others = [_merge(call.stacked_input(i)) for i in tensors]
    sides = call.get_attr("num_side_inputs")
    dx, dgamma, dbeta, dside, y = _OPS.group_norm_grad(
        dy,
        _merge(x),
        _scale_or_shift(call, 2, x),
        _scale_or_shift(call, 3, x),
        mean,
        rstd,
        others[:sides],
        others[sides:],
        **_attributes(call, "groups", "axis", "activation", "with_y"),
    )
    dx, *others = _stacked([dx, *dside, *y], x)
    return [dx, *(_gradient_of(call, i, d, x) for i, d in ((2, dgamma), (3, dbeta))), *others]


@pfor.RegisterPFor("StandardizeWeights")
def _standardize_weights(call: Any) -> list[Any]:
    call.stack_inputs()
    w, gain = (call.stacked_input(i) for i in range(2))
    w_hat, mean, rstd = _OPS.standardize_weights(
        w, tf.reshape(gain, [-1]), Tout=call.get_attr("Tout"), **_standardization(call)
    )
    return [pfor.wrap(w_hat), *(pfor.wrap(_by_iteration(t, w)) for t in (mean, rstd))]


@pfor.RegisterPFor("StandardizeWeightsGrad")
def _standardize_weights_grad(call: Any) -> list[Any]:
    call.stack_inputs()
    dw_hat, w, *others = (call.stacked_input(i) for i in range(5))
    dw, dgain = _OPS.standardize_weights_grad(
        dw_hat, w, *(tf.reshape(t, [-1]) for t in others), **_standardization(call)
    )
    return [pfor.wrap(dw), pfor.wrap(_by_iteration(dgain, w))]


@pfor.RegisterPFor("OptimizationBarrier")
def _optimization_barrier(call: Any) -> list[Any]:
    (x, is_stacked, _), (after, _, _) = (call.input(i) for i in range(2))
    return [pfor.wrap(_OPS.optimization_barrier(x, after), is_stacked)]


def _attributes(call: Any, *names: str) -> dict[str, Any]:
    return {name: call.get_attr(name) for name in names}


def _standardization(call: Any) -> dict[str, Any]:
    """The attributes, with the iterations as the first axis of the output channels."""
    attributes = _attributes(call, "axis", "epsilon", "epsilon_mode", "ddof", "scale")
    axes = (axis if axis < 0 else axis + 1 for axis in attributes["axis"])
    return attributes | {"axis": [0, *axes]}


def _scale_or_shift(call: Any, index: int, x: tf.Tensor, shared: bool = False) -> tf.Tensor:
    """Returns gamma or beta for the samples of all iterations, `[iterations * batch, channels]`.

    Args:
        call: the op.
        index: of the input.
        x: `[iterations, batch, ...]`.
        shared: whether one of `[channels]` may remain for all samples. Its gradient would be summed
            over the iterations.
    """
    tensor, is_stacked, _ = call.input(index)
    shape = _shape_in_an_iteration(call, index)
    if shape == [0]:
        return tf.zeros([0], tensor.dtype)
    if shape.rank == 1:
        if shared and not is_stacked:
            return tensor
        tensor = tf.expand_dims(tensor, -2)
    if not is_stacked:
        tensor = tf.expand_dims(tensor, 0)
    sizes = tf.concat([tf.shape(x)[:2], tf.shape(tensor)[2:]], axis=0)
    return _merge(tf.broadcast_to(tensor, sizes))


def _gradient_of(call: Any, index: int, gradient: tf.Tensor, x: tf.Tensor) -> Any:
    """Returns the gradient of gamma or beta in each iteration, from those of all samples."""
    shape = _shape_in_an_iteration(call, index)
    if shape == [0]:
        return pfor.wrap(gradient, False)
    (stacked,) = _stacked([gradient], x)
    return pfor.wrap(tf.reduce_sum(stacked.t, axis=1)) if shape.rank == 1 else stacked


def _shape_in_an_iteration(call: Any, index: int) -> tf.TensorShape:
    shape = call.op.inputs[index].shape
    if shape.rank is None:
        raise pfor.ConversionNotImplementedError(
            f"{call.op_type} cannot be vectorized with a scale or shift of unknown rank."
        )
    return shape


def _merge(tensor: tf.Tensor) -> tf.Tensor:
    """From `[iterations, batch, ...]` to `[iterations * batch, ...]`."""
    sizes = tf.shape(tensor)
    merged = tf.reshape(tensor, tf.concat([[sizes[0] * sizes[1]], sizes[2:]], axis=0))
    known = tensor.shape
    if known.rank is not None:
        first = None if None in known[:2].as_list() else known[0] * known[1]
        merged.set_shape([first, *known[2:]])
    return merged


def _stacked(tensors: Sequence[tf.Tensor], x: tf.Tensor) -> list[Any]:
    """From `[iterations * batch, ...]` to `[iterations, batch, ...]`, the first two as of `x`."""
    results = []
    for tensor in tensors:
        result = tf.reshape(tensor, tf.concat([tf.shape(x)[:2], tf.shape(tensor)[1:]], axis=0))
        result.set_shape(x.shape[:2].concatenate(tensor.shape[1:]))
        results.append(pfor.wrap(result))
    return results


def _by_iteration(tensor: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """From `[iterations * channels]` to `[iterations, channels]`, the first as of `w`."""
    iterations = tf.shape(w)[0]
    return tf.reshape(tensor, [iterations, tf.size(tensor) // iterations])
