"""The inputs of a Keras model that is exported, and temporary changes for the export."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from .._keras import get_input_signature, make_tf_tensor_spec
from .errors import ExportError, first_line

# Bits of the significand.
_PRECISION = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}


def named_signature(model: keras.Model, given: list[Any] | None = None) -> list[Any]:
    """Returns the inputs that a model takes, with any batch size.

    Args:
        model: a built `keras.Model`.
        given: a list of structures of `keras.InputSpec` or `tf.TensorSpec`, one per positional
            argument, which replaces the model's own, or None.

    Returns:
        A list of structures of `tf.TensorSpec`, one per positional argument. Each spec has a unique
        name, under which servers find the input.

    Raises:
        ExportError: if the input shapes of the model are unknown.
    """
    if given is None:
        try:
            given = get_input_signature(model)
        except ValueError as error:
            raise ExportError(
                f"The input shapes of the model {model.name} are unknown: call it once on a batch, "
                f"or pass input_signature. Keras reports: {first_line(error)}"
            ) from error
    position, names = itertools.count(), set[str]()

    def named(spec: Any) -> tf.TensorSpec:
        spec = make_tf_tensor_spec(spec)
        name = re.sub(r"\W", "_", spec.name or f"args_{next(position)}", flags=re.ASCII)
        while name in names:
            name += "_"
        names.add(name)
        return tf.TensorSpec(spec.shape, spec.dtype, name)

    return [keras.tree.map_structure(named, spec) for spec in given]


def named_outputs(outputs: Any) -> dict[str, tf.Tensor]:
    """Returns the outputs of a model by name, as a signature returns them.

    A dict gives its keys, and a tensor, list or tuple `output_0`, `output_1`, and so on, as in the
    signatures of TensorFlow. Signatures are flat: a nested tensor is named by the path to it,
    `boxes_0` for the first tensor of the list `boxes`.

    Args:
        outputs: a tensor, or a structure of dicts, lists and tuples of tensors.

    Raises:
        ExportError: if something in the structure is no tensor.
    """
    if not isinstance(outputs, dict):
        outputs = {"output": outputs if isinstance(outputs, (list, tuple)) else [outputs]}
    named: dict[str, tf.Tensor] = {}
    for path, tensor in keras.tree.flatten_with_path(outputs):
        if not isinstance(tensor, tf.Tensor):
            raise ExportError(
                "A signature can return tensors, and dicts, lists and tuples of them. One of the "
                f"model's outputs is of the type {type(tensor).__name__}."
            )
        name = "_".join(map(str, path))
        while name in named:
            name += "_"
        named[name] = tensor
    return named


def with_declared_batch(model: keras.Model, signature: list[Any]) -> list[Any]:
    """Returns a signature with the batch sizes that the inputs of a model were declared with.

    Args:
        model: a built `keras.Model`. A subclassed model declares no batch size.
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
def without_rematerialization(model: keras.Model) -> Iterator[None]:
    """Turns rematerialization off within a `with` block.

    An export has no backward pass to recompute for. In a graph, TensorFlow rejects keyword
    arguments of a rematerialized call, such as the `training=False` of a model that was built in a
    `keras.RematScope`.
    """
    operations = model._flatten_layers()
    # The functional model inside a Sequential model is not one of its layers.
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
    """Computes in float32 with variables of any dtype."""

    def __init__(self, variable_dtype: str) -> None:
        super().__init__("float32")
        self._variable_dtype = variable_dtype


@contextlib.contextmanager
def computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Makes all layers compute in float32 within a `with` block.

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


def compute_dtype(model: keras.Model) -> str:
    """Returns the least precise floating-point dtype in which a layer of the model computes."""
    dtypes = {layer.compute_dtype for layer in model._flatten_layers()} & _PRECISION.keys()
    return min(dtypes, key=lambda dtype: _PRECISION[dtype], default="float32")
