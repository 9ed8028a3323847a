"""Layers under `keras.RematScope`: their `call` runs a second time, in the backward pass."""

import contextlib
import functools

import keras
import tensorflow as tf

from .._keras import AutocastScope, RematMode, get_autocast_scope
from ._weight_scope import current_scope, in_foreign_scope


def rematerialized(layer, decide, layer_call, *args, **kwargs):
    """Does what `keras.layers.Layer.rematerialized_call` does, for layers of standardized kernels.

    The second run, too, reads standardized kernels, computed from the variables within what is
    rematerialized, and runs in the precision of the first; and keyword arguments are taken in
    graphs, where `tf.recompute_grad` takes none. In a `stateless_call` nothing is rematerialized:
    the values that it is given would be gone in the second run.

    Args:
        layer: the layer that is called.
        decide: Keras' own `rematerialized_call` of the layer.
        layer_call: the layer's method `call`.
        *args: what the layer is called with.
        **kwargs: likewise.

    Returns:
        The function to call in place of `layer_call`.
    """
    decided = decide(layer_call, *args, **kwargs)
    # In the mode "activations" it is not `call` that is rematerialized.
    if decided is layer_call or layer._remat_mode.mode == "activations":
        return decided
    if in_foreign_scope():
        return layer_call
    scope = current_scope()
    return _recomputed(layer_call, contextlib.nullcontext if scope is None else scope.renewed)


def _recomputed(function, enter):
    @functools.wraps(function)
    def call(*args, **kwargs):
        flat = keras.tree.flatten((args, kwargs))
        # Only these have gradients; `tf.recompute_grad` adds a float to each of its arguments.
        places = [i for i, x in enumerate(flat) if tf.is_tensor(x) and x.dtype.is_floating]
        autocast = get_autocast_scope()
        precision = AutocastScope(autocast.dtype) if autocast else contextlib.nullcontext()

        def run(*tensors):
            leaves = list(flat)
            for place, tensor in zip(places, tensors, strict=True):
                leaves[place] = tensor
            args_, kwargs_ = keras.tree.pack_sequence_as((args, kwargs), leaves)
            with precision, enter():
                return function(*args_, **kwargs_)

        return keras.remat(run)(*(flat[place] for place in places))

    return call


def rematerialize_inside(wrapper):
    """Hands the remat mode of a wrapper down to its layer, whose call is what takes memory.

    What the layer adds outside of its `call`, such as an activity regularizer, then keeps its
    gradient, and nothing is computed a third time.
    """
    mode, layer = wrapper._remat_mode, wrapper.layer
    if mode is None or _is_rematerialized(layer):
        return
    if mode.mode == "list_of_layers" and wrapper.name in mode.layer_names:
        mode = RematMode("full", mode.output_size_threshold, mode.layer_names)
    if mode.mode in ("full", "larger_than"):
        layer._remat_mode = mode


def _is_rematerialized(layer):
    mode = layer._remat_mode
    if mode is None:
        return False
    named = mode.mode == "list_of_layers" and layer.name in mode.layer_names
    return named or mode.mode in ("full", "larger_than")


def standardize_when_recomputed(layer, owners):
    """Has a layer, and the layers in it that hold `owners`, recompute standardized kernels.

    A cell is not recomputed by itself, which would standardize at each time step, but with its
    recurrent layer.

    Args:
        layer: the layer that a wrapper calls within a `WeightScope`.
        owners: the layers that own the kernels.
    """
    cells = []
    for part in layer._flatten_layers():
        if isinstance(part, keras.layers.RNN):
            within = part._flatten_layers(include_self=False)
            cells += within
            modes = [cell._remat_mode for cell in within if _is_rematerialized(cell)]
            if modes and not _is_rematerialized(part):
                part._remat_mode = RematMode("full", *modes[0][1:])
    for part in layer._flatten_layers():
        if any(part is cell for cell in cells):
            part.rematerialized_call = _plain_call
        elif any(owner in part._flatten_layers() for owner in owners):
            part.rematerialized_call = functools.partial(_rematerialized_part, part)


def _plain_call(layer_call, *args, **kwargs):
    return layer_call


def _rematerialized_part(part, layer_call, *args, **kwargs):
    decide = functools.partial(type(part).rematerialized_call, part)
    scope = current_scope()
    if scope is None:
        return decide(layer_call, *args, **kwargs)
    if scope.renews:  # A layer around this one is recomputed, and with it this one.
        return layer_call
    return rematerialized(part, decide, layer_call, *args, **kwargs)
