"""Runs ONNX files in OpenVINO, and tells what it executes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from .errors import ExportError
from .normalizations import Execution
from .onnx_graph import nodes

# The operation of the CPU plugin that normalizes.
_NORMALIZATION = "MVN"

# Data of the graph rather than operations.
_DATA = ("Const", "Input", "Output")

# What may stand between a normalization and what reads it.
_MOVES = ("Reorder", "Reshape", "Transpose")


def load(path: Path) -> Callable[[dict[str, tf.Tensor]], dict[str, np.ndarray]]:
    """Loads a file.

    Args:
        path: an `.onnx` file.

    Returns:
        Its call: from a dict of inputs by name to one of outputs.
    """
    import onnx

    compiled = _compiled(path)
    graph = onnx.load(path, load_external_data=False).graph
    given = {
        constant.name for constant in graph.initializer
    }  # Inputs with a default are constants.
    inputs = [value.name for value in graph.input if value.name not in given]
    outputs = [value.name for value in graph.output]

    def call(feed: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
        results = compiled([np.asarray(feed[name]) for name in inputs])
        return {name: results[i] for i, name in enumerate(outputs)}

    return call


def execution(path: Path) -> Execution:
    """Returns what OpenVINO executes of a file on the CPU."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    operations = _compiled(path).get_runtime_model().get_ordered_ops()
    kinds = [_kind(operation) for operation in operations]
    return Execution(
        "OpenVINO",
        [kind for kind in kinds if kind not in _DATA],
        frozenset(_normalizations(graph, operations)),
        frozenset(node.name for node in nodes(graph)) - {node.name for node in graph.node},
    )


def _normalizations(graph: Any, operations: list[Any]) -> Iterator[str]:
    """Yields the names of the InstanceNormalizations that OpenVINO executes as one normalization.

    It does not keep their names, but that of a node behind them: the Reshape that follows each, or
    a later one if OpenVINO merges nodes or removes a scale of one and a shift of zero.
    """
    by_name = {name: operation for operation in operations for name in _names_in_file(operation)}
    taken: set[str] = set()
    for node in graph.node:
        if node.op_type != "InstanceNormalization":
            continue
        for name in _names_behind(graph, node):
            free = _behind(by_name[name]) - taken if name in by_name else set()
            if free:
                taken.add(min(free))
                yield node.name
                break


def _names_behind(graph: Any, node: Any) -> Iterator[str]:
    """Yields the names of the nodes and tensors behind a node, as far as each has one reader."""
    readers = [node]
    while len(readers) == 1 and (readers == [node] or readers[0].op_type != node.op_type):
        (tensor, *_) = readers[0].output
        yield from (readers[0].name, tensor)
        readers = [reader for reader in graph.node if tensor in reader.input]


def _behind(operation: Any) -> set[str]:
    """Returns the names of the normalizations from which moves lead to an operation."""
    if _kind(operation) == _NORMALIZATION:
        return {operation.get_friendly_name()}
    sources = [source.get_node() for source in operation.input_values()]
    ends = [source for source in sources if _kind(source) in (_NORMALIZATION, *_MOVES)]
    return {name for source in ends for name in _behind(source)}


def _kind(operation: Any) -> str:
    """Returns the type of an operation of an execution graph."""
    return str(_information(operation, "layerType"))


def _names_in_file(operation: Any) -> list[str]:
    """Returns the names of the nodes that became an operation of an execution graph."""
    return str(_information(operation, "originalLayersNames")).split(",")


def _information(operation: Any, key: str) -> Any:
    information = operation.get_rt_info()
    return information[key].value if key in information else ""


def _compiled(path: Path) -> Any:
    import openvino

    # The default is bfloat16 on CPUs that have it.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    try:
        return openvino.Core().compile_model(os.fspath(path), "CPU", settings)
    except RuntimeError as error:
        raise ExportError(_reason(str(error))) from error


def _reason(message: str) -> str:
    """Returns what OpenVINO cannot read, of a message with many lines."""
    failed = re.search(r"Conversion is failed for: (.*)$", message, re.MULTILINE)
    if failed is None:
        lines = [line.strip() for line in message.splitlines()]
        told = [line for line in lines if line and not line.startswith("Exception from ")]
        return told[-1] if told else message
    kinds = sorted({re.sub(r"-\d+$", "", kind.strip()) for kind in failed[1].split(",")})
    hint = " (unroll recurrent layers, or take the target onnxruntime)" * ("Loop" in kinds)
    return f"it does not read {', '.join(kinds)} as written here{hint}"
