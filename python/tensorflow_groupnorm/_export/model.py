"""What is exported of a Keras model: its call at inference, and the shapes of its inputs."""

from __future__ import annotations

import contextlib
import itertools
import re

import keras
import tensorflow as tf

from .._keras import get_input_signature, make_tf_tensor_spec
from .errors import ExportError, first_line

# Bits of the significand.
_PRECISION = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}


def named_signature(model, given=None):
    """Returns the inputs that a model takes, of any batch size.

    Args:
        model: a built `keras.Model`.
        given: a structure of `keras.InputSpec` or `tf.TensorSpec`, one per positional argument, in
            place of what the model tells, or None.

    Returns:
        A list of structures of `tf.TensorSpec`, one per positional argument. Each spec has a name
        of its own, under which servers find the input.

    Raises:
        ExportError: if the model does not know its inputs yet.
    """
    if given is None:
        try:
            given = get_input_signature(model)
        except ValueError as error:
            raise ExportError(
                f"The model {model.name} does not know the shapes of its inputs: call it once on a "
                f"batch, or give input_signature. Keras says: {first_line(error)}"
            ) from error
    position, names = itertools.count(), set()

    def named(spec):
        spec = make_tf_tensor_spec(spec)
        name = re.sub(r"\W", "_", spec.name or f"args_{next(position)}", flags=re.ASCII)
        while name in names:
            name += "_"
        names.add(name)
        return tf.TensorSpec(spec.shape, spec.dtype, name)

    return [keras.tree.map_structure(named, spec) for spec in given]


def with_declared_batch(model, signature):
    """Returns a signature of the batch sizes that the inputs of a model were declared with.

    Args:
        model: a built `keras.Model`. A subclassed one declares none.
        signature: of `named_signature`, with the inputs of the model.
    """
    specs, inputs = keras.tree.flatten(signature), getattr(model, "inputs", None) or []
    if len(specs) != len(inputs):
        return signature
    declared = [
        tf.TensorSpec(
            [*tensor.shape[:1], *spec.shape[1:]],
            spec.dtype,
            spec.name,
        )
        for spec, tensor in zip(specs, inputs, strict=True)
    ]
    return keras.tree.pack_sequence_as(signature, declared)


@contextlib.contextmanager
def without_rematerialization(model):
    """Lets nothing be computed again in a backward pass, for the time of a `with` block.

    There is none. In a graph TensorFlow refuses keyword arguments of a rematerialized call, such as
    the `training=False` of a model that was built in a `keras.RematScope`.
    """
    operations = model._flatten_layers()
    # The functional model inside a sequential one, which is none of its layers.
    inside = [getattr(layer, "_functional", None) for layer in operations]
    operations += [functional for functional in inside if functional is not None]
    operations += [op for layer in operations for op in getattr(layer, "operations", ())]
    modes = [(operation, operation._remat_mode) for operation in operations]
    try:
        for operation, _ in modes:
            operation._remat_mode = None
        yield
    finally:
        for operation, mode in modes:
            operation._remat_mode = mode


class _Float32(keras.DTypePolicy):
    """Computes in float32, from variables of any dtype."""

    def __init__(self, variable_dtype):
        super().__init__("float32")
        self._variable_dtype = variable_dtype


@contextlib.contextmanager
def computing_in_float32(model):
    """Lets all layers compute in float32, for the time of a `with` block.

    TFLite and ONNX Runtime have no convolutions in bfloat16 or float64.
    """
    others = [
        (layer, layer._dtype_policy)
        for layer in model._flatten_layers()
        if layer.compute_dtype in _PRECISION and layer.compute_dtype != "float32"
    ]
    try:
        for layer, policy in others:
            layer._dtype_policy = _Float32(policy.variable_dtype)
        yield
    finally:
        for layer, policy in others:
            layer._dtype_policy = policy


def compute_dtype(model) -> str:
    """Returns the least precise floating-point dtype that a layer of the model computes in."""
    dtypes = {layer.compute_dtype for layer in model._flatten_layers()} & _PRECISION.keys()
    return min(dtypes, key=_PRECISION.get, default="float32")
