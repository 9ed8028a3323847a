"""Finds the additions and activations that a normalization can absorb."""

from __future__ import annotations

import dataclasses

import keras

from .._keras import AddOperation, Node, ReluActivation, ReluOperation, SiluOperation
from ..layers._activations import fused_name, resolve
from .network import Network

#: Layers that apply an activation and nothing else.
ACTIVATIONS = (
    *(keras.layers.Activation, keras.layers.ELU, keras.layers.LeakyReLU, keras.layers.PReLU),
    keras.layers.ReLU,
)


@dataclasses.dataclass(frozen=True)
class Fusion:
    """The operations of `activation(norm(x) + residual)` that become one layer.

    Attributes:
        addition: the addition, or None.
        norm_input: the input of the addition, 0 or 1, that comes from the normalization.
        activation: `"relu"`, `"silu"` or None.
        activation_operation: the operation that applies the activation, or None.
        other_activation: the layer that applies another activation there, which stays, or None.
    """

    addition: keras.Operation | None = None
    norm_input: int = 0
    activation: str | None = None
    activation_operation: keras.Operation | None = None
    other_activation: keras.Layer | None = None

    @property
    def absorbed(self) -> list[keras.Operation]:
        """The operations that become part of the normalization."""
        return [op for op in (self.addition, self.activation_operation) if op is not None]


def find_fusion(
    network: Network, norm: keras.Layer, outputs: list[keras.KerasTensor], taken: set[int]
) -> Fusion:
    """Returns the operations after a normalization that can be fused into it.

    They are called once and have one dtype, and nothing else reads the tensors between them. The
    addition adds two tensors of the same shape, as the fused layer does before its activation.

    Args:
        network: the calls of the model.
        norm: the normalization layer.
        outputs: the outputs of the model that is converted. The operations that produce them stay,
            as their names are those that dicts of losses and labels use.
        taken: the ids of additions that other normalizations have absorbed.
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
    node = _next(network, output, outputs)
    if node is None:
        return Fusion(addition, norm_input)
    name = activation_name(node.operation)
    if name is not None:
        return Fusion(addition, norm_input, name, node.operation)
    other = node.operation if isinstance(node.operation, ACTIVATIONS) else None
    return Fusion(addition, norm_input, other_activation=other)


def _next(
    network: Network, tensor: keras.KerasTensor, outputs: list[keras.KerasTensor]
) -> Node | None:
    """Returns the only call that reads the tensor, of an operation that is called once."""
    node = network.only_reader(tensor)
    if node is None or len(network.calls(node.operation)) != 1 or len(node.outputs) != 1:
        return None
    if any(node.outputs[0] is output for output in outputs):
        return None
    return node if node.outputs[0].dtype == tensor.dtype else None


def _addition(
    network: Network,
    output: keras.KerasTensor,
    outputs: list[keras.KerasTensor],
    taken: set[int],
) -> tuple[keras.Operation | None, int]:
    node = _next(network, output, outputs)
    if node is None or type(node.operation) not in (keras.layers.Add, AddOperation):
        return None, 0
    inputs = node.input_tensors
    if id(node.operation) in taken or len(inputs) != 2:
        return None, 0
    if inputs[0].shape != inputs[1].shape or inputs[0].dtype != inputs[1].dtype:
        return None, 0
    return node.operation, 0 if inputs[0] is output else 1


def activation_name(operation: keras.Operation) -> str | None:
    """Returns `"relu"` or `"silu"` for an operation that computes exactly that, else None."""
    if isinstance(operation, keras.Layer):
        function = resolve(operation, operation.compute_dtype)
        name = fused_name(function)
        return None if name == "linear" else name
    if type(operation) is ReluActivation:
        plain = not (operation.negative_slope or operation.threshold)
        return "relu" if plain and operation.max_value is None else None
    return {ReluOperation: "relu", SiluOperation: "silu"}.get(type(operation))


def why_not_fused(layer: keras.Layer) -> str:
    """Returns why a layer of `ACTIVATIONS` for which `activation_name` returns None is kept."""
    if layer.activity_regularizer is not None:
        return "it has an activity regularizer"
    return f"{_described(layer)}: the fused op has ReLU and SiLU"


def _described(layer: keras.Layer) -> str:
    if isinstance(layer, keras.layers.Activation):
        return getattr(layer.activation, "__name__", type(layer.activation).__name__)
    if not isinstance(layer, keras.layers.ReLU):
        return type(layer).__name__
    arguments = {
        "max_value": layer.max_value,
        "negative_slope": layer.negative_slope,
        "threshold": layer.threshold,
    }
    return ", ".join(f"{name}={float(value):g}" for name, value in arguments.items() if value)
