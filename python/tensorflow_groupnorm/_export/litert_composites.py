"""Writes the GroupNorm ops of a TFLite file as StableHLO composites, and reads composites.

A composite is an operator with a name and attributes, by which a delegate knows it, and with a
subgraph of builtin operators that computes the same, which a CPU executes.

It is imported only to write or read a file: TFLite's modules have no public names, and leave
TensorFlow for another package.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from .errors import ExportError

#: The composite of a group normalization, and the only version of it.
NAME, VERSION = "odml.group_norm", 1

_MARK = b"GroupNorm"

# The first runtime that executes composites.
_RUNTIME = (2, 17, 0)


@dataclasses.dataclass(frozen=True)
class _Norm:
    """What a decomposition depends on.

    Attributes:
        sizes: of all axes but the channels, with None for unknown ones.
        channels: the size of the last axis.
        groups: into which the channels are divided.
        epsilon: added to the variance.
    """

    sizes: tuple[int | None, ...]
    channels: int
    groups: int
    epsilon: float


@dataclasses.dataclass(frozen=True)
class Operators:
    """The operators of a TFLite file.

    Attributes:
        composites: for each group normalization that is a composite, in the order of the file,
            whether its scale and shift are constants, as LiteRT's GPU delegate needs them.
        executed: how many operators of each type a CPU executes, in decreasing order. Those that a
            composite stands for are counted for each composite, and those of a loop once.
    """

    composites: list[bool]
    executed: dict[str, int]


def custom_ops(content: bytes) -> list[str]:
    """Returns the names of the operators of a file that are not builtin, in order."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    return sorted({code.customCode.decode() for code in model.operatorCodes if code.customCode})


def with_composites(content: bytes) -> tuple[bytes, list[str]]:
    """Replaces the GroupNorm ops of a file by composites.

    Args:
        content: of the file.

    Returns:
        `(content, names)`: the new content, and the names of the ops in TensorFlow's graph, in the
        order of the file.

    Raises:
        ExportError: if a GroupNorm op has more than a composite can hold.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    codes = [code for code in model.operatorCodes if code.customCode == _MARK]
    if not codes:
        return content, []
    marks = [
        (graph, operator)
        for graph in model.subgraphs
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex] in codes
    ]
    names = [_name(graph, operator) for graph, operator in marks]
    norms = [_norm(graph, operator) for graph, operator in marks]
    indices = _append_decompositions(model, list(dict.fromkeys(norms)))
    for (_, operator), norm in zip(marks, norms, strict=True):
        _become_composite(operator, norm, indices[norm])
    for code in codes:
        code.customCode = None
        code.builtinCode = schema.BuiltinOperator.STABLEHLO_COMPOSITE
        code.deprecatedBuiltinCode = schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
    for graph in {id(graph): graph for graph, _ in marks}.values():
        _drop_unused_tensors(model, graph)
    _require_runtime(model)
    return flatbuffer_utils.convert_object_to_bytearray(model), names


def read(path: Path) -> Operators:
    """Returns the operators of a file."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
    composites: list[bool] = []
    counts = [Counter[str]() for _ in model.subgraphs]
    called: list[tuple[int, int]] = []
    for index, graph in enumerate(model.subgraphs):
        for operator in graph.operators:
            counts[index][_kind(model, operator)] += 1
            options = operator.builtinOptions2
            if not isinstance(options, schema.StableHLOCompositeOptionsT):
                continue
            called.append((index, options.decompositionSubgraphIndex))
            if options.name == NAME.encode() and options.version == VERSION:
                composites.append(_has_constants(model, graph, operator))
    bodies = {body for _, body in called}
    executed = sum((c for i, c in enumerate(counts) if i not in bodies), Counter[str]())
    for index, body in called:
        if index not in bodies:
            executed += counts[body]
    return Operators(composites, dict(executed.most_common()))


def _kind(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return next(k for k, value in vars(schema.BuiltinOperator).items() if value == number)


def _has_constants(model: Any, graph: Any, operator: Any) -> bool:
    buffers = [model.buffers[graph.tensors[index].buffer] for index in operator.inputs[1:]]
    return all(buffer.data is not None and len(buffer.data) for buffer in buffers)


def _name(graph: Any, operator: Any) -> str:
    """Returns the name of an op in TensorFlow's graph.

    Tensors are named after the op that they come from, with a number where names are equal. Its
    first output may have the name of an output of the signature.
    """
    return re.sub(r"\d+$", "", graph.tensors[operator.outputs[1]].name.decode())


def _norm(graph: Any, operator: Any) -> _Norm:
    options = flexbuffers.Loads(bytes(operator.customOptions))
    x, *parameters = (graph.tensors[index] for index in operator.inputs)
    channels = [int(parameter.shape[0]) for parameter in parameters if len(parameter.shape) == 1]
    shape = [int(size) for size in (x.shape if x.shapeSignature is None else x.shapeSignature)]
    axis = options["axis"] % len(shape) if shape else options["axis"]
    # The raw op takes more than a call of `ops.group_norm` leaves to it.
    outputs = {int(index) for index in operator.outputs[1:]}
    used = {int(i) for other in graph.operators for i in other.inputs} | {*map(int, graph.outputs)}
    if (
        options["activation"] != "linear"
        or x.type != schema.TensorType.FLOAT32
        or not 1 <= axis <= 3
        or len(shape) not in (0, axis + 1)
        or len(parameters) != 2
        or len(channels) != 2
        or 0 in channels
        or outputs & used
        or (options["groups"] == 1 and axis > 1)
    ):
        raise ExportError(
            f"The model calls {_name(graph, operator)} by its raw name, with arguments or outputs "
            f"that {NAME} of LiteRT does not have: call tensorflow_groupnorm.group_norm."
        )
    # Sizes that only an op for checks told, which is removed, are unknown.
    sizes = [None if size < 0 else size for size in shape[:-1]] or [None] * axis
    return _Norm(tuple(sizes), channels[0], options["groups"], options["epsilon"])


def _become_composite(operator: Any, norm: _Norm, decomposition: int) -> None:
    options = schema.StableHLOCompositeOptionsT()
    options.name = NAME
    options.version = VERSION
    options.decompositionSubgraphIndex = decomposition
    options.compositeAttributes = np.frombuffer(_attributes(norm), np.uint8)
    options.compositeAttributesFormat = schema.CustomOptionsFormat.FLEXBUFFERS
    operator.builtinOptions2Type = schema.BuiltinOptions2.StableHLOCompositeOptions
    operator.builtinOptions2 = options
    operator.customOptions = None
    operator.outputs = operator.outputs[:1]


def _attributes(norm: _Norm) -> bytes:
    """Returns the attributes of the composite as LiteRT's delegates read them.

    The GPU delegate asks for the last axis as that of the channels, counted from 0. It takes a
    composite without reduction axes for a layer normalization. With them, it asks for the last axis
    alone, unless there is a `sub_type`, which its versions treat differently. It reads no typed
    vector.
    """
    axis = len(norm.sizes)
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("num_groups", norm.groups)
        builder.Float("epsilon", norm.epsilon)
        builder.Int("channel_axis", axis)
        with builder.Map("_TENSOR_V1_reduction_axes"):
            with builder.Vector("TENSOR_DATA"):
                builder.Int(axis)
    return bytes(builder.Finish())


def _append_decompositions(model: Any, norms: list[_Norm]) -> dict[_Norm, int]:
    """Appends a subgraph for each normalization; returns their indices."""
    added = _converted(norms)
    codes, buffers, graphs = (
        len(part) for part in (model.operatorCodes, model.buffers, model.subgraphs)
    )
    for graph in added.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex += codes
        for tensor in graph.tensors:
            tensor.buffer += buffers
    model.operatorCodes += added.operatorCodes
    model.buffers += added.buffers
    model.subgraphs += added.subgraphs
    indices = {}
    for signature in added.signatureDefs:
        number = int(signature.signatureKey)
        graph = added.subgraphs[signature.subgraphIndex]
        graph.name = f"{NAME}.impl_{number}"
        inputs = {tensor.name: tensor.tensorIndex for tensor in signature.inputs}
        graph.inputs = [inputs[name] for name in (b"x", b"gamma", b"beta")]
        indices[norms[number]] = graphs + signature.subgraphIndex
    return indices


def _converted(norms: list[_Norm]) -> Any:
    """Returns a TFLite model with a signature for each normalization, named by its position."""
    module = tf.Module()
    module.functions = [_decomposition(norm) for norm in norms]
    with TemporaryDirectory() as folder:
        names = [str(number) for number in range(len(norms))]
        tf.saved_model.save(module, folder, dict(zip(names, module.functions, strict=True)))
        converter = tf.lite.TFLiteConverter.from_saved_model(
            os.fspath(folder), signature_keys=names
        )
        return flatbuffer_utils.read_model_from_bytearray(bytearray(converter.convert()))


def _decomposition(norm: _Norm) -> Any:
    """Returns a concrete function of x, gamma and beta, in ops that XNNPACK has."""
    groups, channels = norm.groups, norm.channels
    axes = list(range(1, len(norm.sizes)))
    size = channels // groups

    def mean(t: tf.Tensor) -> tf.Tensor:
        of_channels = tf.reshape(tf.reduce_mean(t, axes), [-1, groups, size])
        of_groups = tf.tile(tf.reduce_mean(of_channels, 2, keepdims=True), [1, 1, size])
        return tf.reshape(of_groups, [-1, *[1] * len(axes), channels])

    def normalize(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> dict[str, tf.Tensor]:
        centered = x - mean(x)
        # The mean of float32 has a rounding error, which counts where it is large.
        centered -= mean(centered)
        rstd = tf.math.rsqrt(mean(tf.square(centered)) + norm.epsilon)
        return {"y": centered * (rstd * gamma) + beta}

    parameters = [tf.TensorSpec([channels], name=name) for name in ("gamma", "beta")]
    x = tf.TensorSpec([*norm.sizes, channels], name="x")
    return tf.function(normalize).get_concrete_function(x, *parameters)


def _drop_unused_tensors(model: Any, graph: Any) -> None:
    """Removes the tensors that no operator of a graph has: the statistics, which were outputs."""
    signatures = [s for s in model.signatureDefs if model.subgraphs[s.subgraphIndex] is graph]
    named = [tensor for s in signatures for tensor in (*s.inputs, *s.outputs)]
    indices = [graph.inputs, graph.outputs]
    for operator in graph.operators:
        indices += [operator.inputs, operator.outputs]
        if operator.intermediates is not None:
            indices.append(operator.intermediates)
    kept = sorted({int(i) for part in indices for i in part if i >= 0})
    new = {old: index for index, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in kept]
    graph.inputs, graph.outputs = ([new[int(i)] for i in part] for part in indices[:2])
    for operator in graph.operators:
        operator.inputs = [new[int(i)] for i in operator.inputs]
        operator.outputs = [new[int(i)] for i in operator.outputs]
        if operator.intermediates is not None:
            operator.intermediates = [new[int(i)] for i in operator.intermediates]
    for tensor in named:
        tensor.tensorIndex = new[tensor.tensorIndex]


def _require_runtime(model: Any) -> None:
    """Raises the least version of the runtime that the metadata of the file state."""
    for metadata in model.metadata or []:
        if metadata.name == b"min_runtime_version":
            buffer = model.buffers[metadata.buffer]
            # A file of custom operators alone states none.
            stated = bytes(buffer.data).rstrip(b"\0").decode() or "0"
            if tuple(int(part) for part in stated.split(".")) < _RUNTIME:
                text = ".".join(map(str, _RUNTIME)).encode().ljust(len(buffer.data), b"\0")
                buffer.data = np.frombuffer(text, np.uint8)
