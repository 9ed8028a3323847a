"""Finds the additions and activations that a normalization can take into its kernel."""

from __future__ import annotations

import dataclasses

import keras
from keras.src.activations import activations as activation_ops
from keras.src.ops import nn as nn_ops
from keras.src.ops import numpy as numpy_ops

from ._graph import Graph


@dataclasses.dataclass(frozen=True)
class Fusion:
    """`activation(norm(x) + residual)`, all of which becomes one layer.

    Attributes:
        addition: the operation that adds, or None.
        norm_input: which of its two inputs the normalization's output is.
        activation: `"relu"`, `"silu"` or None.
        activation_operation: the operation that applies it, or None.
    """

    addition: object = None
    norm_input: int = 0
    activation: str | None = None
    activation_operation: object = None

    @property
    def absorbed(self) -> list:
        """The operations that are no layers of their own any more."""
        return [op for op in (self.addition, self.activation_operation) if op is not None]


def find(graph: Graph, norm, taken: set[int]) -> Fusion:
    """Returns what follows a normalization and can be fused into it.

    Everything fused is called once, in one dtype, and nothing else reads what lies between. The
    addition is of two tensors of one shape: `norm(x) + residual` is then what the layer computes,
    and the activation is applied to the sum.

    Args:
        graph: of the model.
        norm: the normalization layer.
        taken: the ids of additions that other normalizations have taken.
    """
    calls = graph.calls(norm)
    if len(calls) != 1 or len(calls[0].outputs) != 1:
        return Fusion()
    output = calls[0].outputs[0]
    if output.dtype != norm.compute_dtype:
        return Fusion()
    addition, norm_input = _addition(graph, output, taken)
    if addition is not None:
        output = graph.calls(addition)[0].outputs[0]
    activation, operation = _activation(graph, output)
    return Fusion(addition, norm_input, activation, operation)


def _next(graph: Graph, tensor):
    """Returns the call that alone reads the tensor, of an operation that is called once.

    The last operation of a model stays: the names of a model's outputs are those of the layers
    they come from, and a dict of losses or labels goes by them.
    """
    node = graph.only_reader(tensor)
    if node is None or len(graph.calls(node.operation)) != 1 or len(node.outputs) != 1:
        return None
    if graph.is_root and graph.is_output(node.outputs[0]):
        return None
    return node if node.outputs[0].dtype == tensor.dtype else None


def _addition(graph: Graph, output, taken: set[int]):
    node = _next(graph, output)
    if node is None or type(node.operation) not in (keras.layers.Add, numpy_ops.Add):
        return None, 0
    inputs = node.input_tensors
    if id(node.operation) in taken or len(inputs) != 2:
        return None, 0
    if inputs[0].shape != inputs[1].shape or inputs[0].dtype != inputs[1].dtype:
        return None, 0
    return node.operation, 0 if inputs[0] is output else 1


def _activation(graph: Graph, output):
    node = _next(graph, output)
    name = None if node is None else activation_name(node.operation)
    return (None, None) if name is None else (name, node.operation)


def activation_name(operation) -> str | None:
    """Returns `"relu"` or `"silu"` for an operation that is just that, else None."""
    if type(operation) in (keras.layers.ReLU, activation_ops.ReLU):
        plain = not (operation.negative_slope or operation.threshold)
        return "relu" if plain and operation.max_value is None else None
    if type(operation) is keras.layers.Activation:
        functions = {keras.activations.relu: "relu", keras.activations.silu: "silu"}
        return functions.get(operation.activation)
    return {nn_ops.Relu: "relu", nn_ops.Silu: "silu"}.get(type(operation))
