"""Finds the additions and activations that a normalization can take into its kernel."""

from __future__ import annotations

import dataclasses

import keras

from .._keras import AddOperation, ReluOperations, SiluOperation
from ..layers._activations import fused_name, resolve
from .network import Network


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


def find_fusion(network: Network, norm, outputs: list, taken: set[int]) -> Fusion:
    """Returns what follows a normalization and can be fused into it.

    Everything fused is called once, in one dtype, and nothing else reads what lies between. The
    addition is of two tensors of one shape: `norm(x) + residual` is then what the layer computes,
    and the activation is applied to the sum.

    Args:
        network: the calls of the model.
        norm: the normalization layer.
        outputs: tensors whose operations stay: the outputs of the model that is converted. Their
            names are those of its outputs, and a dict of losses or labels goes by them.
        taken: the ids of additions that other normalizations have taken.
    """
    calls = network.calls(norm)
    if len(calls) != 1 or len(calls[0].outputs) != 1:
        return Fusion()
    output = calls[0].outputs[0]
    if output.dtype != norm.compute_dtype:
        return Fusion()
    addition, norm_input = _addition(network, output, outputs, taken)
    if addition is not None:
        output = network.calls(addition)[0].outputs[0]
    activation, operation = _activation(network, output, outputs)
    return Fusion(addition, norm_input, activation, operation)


def _next(network: Network, tensor, outputs: list):
    """Returns the call that alone reads the tensor, of an operation that is called once."""
    node = network.only_reader(tensor)
    if node is None or len(network.calls(node.operation)) != 1 or len(node.outputs) != 1:
        return None
    if any(node.outputs[0] is output for output in outputs):
        return None
    return node if node.outputs[0].dtype == tensor.dtype else None


def _addition(network: Network, output, outputs: list, taken: set[int]):
    node = _next(network, output, outputs)
    if node is None or type(node.operation) not in (keras.layers.Add, AddOperation):
        return None, 0
    inputs = node.input_tensors
    if id(node.operation) in taken or len(inputs) != 2:
        return None, 0
    if inputs[0].shape != inputs[1].shape or inputs[0].dtype != inputs[1].dtype:
        return None, 0
    return node.operation, 0 if inputs[0] is output else 1


def _activation(network: Network, output, outputs: list):
    node = _next(network, output, outputs)
    name = None if node is None else activation_name(node.operation)
    return (None, None) if name is None else (name, node.operation)


def activation_name(operation) -> str | None:
    """Returns `"relu"` or `"silu"` for an operation that is just that, else None."""
    if isinstance(operation, keras.Layer):
        function = resolve(operation, operation.compute_dtype)
        name = fused_name(function)
        return None if name == "linear" else name
    if type(operation) is ReluOperations[0]:
        plain = not (operation.negative_slope or operation.threshold)
        return "relu" if plain and operation.max_value is None else None
    return {ReluOperations[1]: "relu", SiluOperation: "silu"}.get(type(operation))
