"""Layers under `keras.RematScope`: their `call` runs a second time, in the backward pass."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from .._keras import RematMode, current_precision
from ._weight_scope import current_scope, in_foreign_scope

_Function: TypeAlias = Callable[..., Any]


def rematerialized(
    layer: keras.layers.Layer, decide: _Function, layer_call: _Function, *args: Any, **kwargs: Any
) -> _Function:
    """Replaces `keras.layers.Layer.rematerialized_call` for layers with standardized kernels.

    The second run also reads standardized kernels, which it computes from the variables again, and
    it runs in the precision of the first. Unlike `tf.recompute_grad`, the returned function accepts
    keyword arguments in graphs. A `stateless_call` is not rematerialized: the second run would not
    have the values that it was given.

    Args:
        layer: the layer that is called.
        decide: the `rematerialized_call` that Keras gives the layer.
        layer_call: the method `call` of the layer.
        *args: the positional arguments of the call.
        **kwargs: the keyword arguments of the call.

    Returns:
        The function to call in place of `layer_call`.
    """
    decided = decide(layer_call, *args, **kwargs)
    # The mode "activations" does not rematerialize `call`.
    if decided is layer_call or layer._remat_mode.mode == "activations":
        return decided
    if in_foreign_scope():
        return layer_call
    scope = current_scope()
    return _recomputed(layer_call, contextlib.nullcontext if scope is None else scope.renewed)


def _recomputed(
    function: _Function, enter: Callable[[], contextlib.AbstractContextManager[Any]]
) -> _Function:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        flat = keras.tree.flatten((args, kwargs))
        # `tf.recompute_grad` adds a float to each of its arguments: it gets those with gradients.
        places = [i for i, x in enumerate(flat) if tf.is_tensor(x) and x.dtype.is_floating]
        precision = current_precision()

        def run(*tensors: tf.Tensor) -> Any:
            leaves = list(flat)
            for place, tensor in zip(places, tensors, strict=True):
                leaves[place] = tensor
            args_, kwargs_ = keras.tree.pack_sequence_as((args, kwargs), leaves)
            with precision, enter():
                return function(*args_, **kwargs_)

        return keras.remat(run)(*(flat[place] for place in places))

    return call


def rematerialize_inside(wrapper: keras.layers.Wrapper) -> None:
    """Passes the rematerialization mode of a wrapper on to its layer, whose `call` takes memory.

    What the layer adds outside its `call`, such as an activity regularizer, then keeps its
    gradient, and nothing runs a third time.
    """
    mode, layer = wrapper._remat_mode, wrapper.layer
    if mode is None or is_rematerialized(layer):
        return
    if mode.mode == "list_of_layers" and wrapper.name in mode.layer_names:
        mode = RematMode("full", mode.output_size_threshold, mode.layer_names)
    if mode.mode in ("full", "larger_than"):
        layer._remat_mode = mode


def is_rematerialized(layer: keras.layers.Layer) -> bool:
    mode = layer._remat_mode
    if mode is None:
        return False
    named = mode.mode == "list_of_layers" and layer.name in mode.layer_names
    return named or mode.mode in ("full", "larger_than")


def standardize_when_recomputed(
    layer: keras.layers.Layer, owners: Iterable[keras.layers.Layer]
) -> None:
    """Makes a layer, and the layers in it that hold `owners`, recompute standardized kernels.

    A cell is recomputed with its recurrent layer and not by itself, which would standardize at each
    time step.

    Args:
        layer: the layer that a wrapper calls within a `WeightScope`.
        owners: the layers that own the kernels.
    """
    cells: list[keras.layers.Layer] = []
    for part in layer._flatten_layers():
        if isinstance(part, keras.layers.RNN):
            within = part._flatten_layers(include_self=False)
            cells += within
            modes = [cell._remat_mode for cell in within if is_rematerialized(cell)]
            if modes and not is_rematerialized(part):
                part._remat_mode = RematMode("full", *modes[0][1:])
    for part in layer._flatten_layers():
        if any(part is cell for cell in cells):
            part.rematerialized_call = _plain_call
        elif any(owner in part._flatten_layers() for owner in owners):
            part.rematerialized_call = functools.partial(_rematerialized_part, part)


def _plain_call(layer_call: _Function, *args: Any, **kwargs: Any) -> _Function:
    return layer_call


def _rematerialized_part(
    part: keras.layers.Layer, layer_call: _Function, *args: Any, **kwargs: Any
) -> _Function:
    decide = functools.partial(type(part).rematerialized_call, part)
    scope = current_scope()
    if scope is None:
        return decide(layer_call, *args, **kwargs)
    if scope.renews:  # A layer around this one is recomputed, and this one with it.
        return layer_call
    return rematerialized(part, decide, layer_call, *args, **kwargs)
