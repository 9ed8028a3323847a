"""What the backward pass keeps of a tensor for the calls that read it."""

from __future__ import annotations

import keras

from .. import layers
from .._keras import LinearOperations, Node
from ..layers._activations import fused_name
from ..layers._linear import keeps_input, why_not_linear
from .fusion import ACTIVATIONS, activation_name
from .network import Network, unwrap
from .walk import functional, of_keras

#: Layers of several inputs or with random numbers whose gradients need no input.
_KEEP_NOTHING = (
    *(keras.layers.Add, keras.layers.Average, keras.layers.Concatenate, keras.layers.Subtract),
    *(keras.layers.Dropout, keras.layers.GaussianNoise),
    *(keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D),
    keras.layers.SpatialDropout3D,
)

#: Their output is the tensor that they read, or has its memory.
_VIEWS = (keras.layers.Flatten, keras.layers.Identity, keras.layers.Reshape)

#: Their output is too small to be worth anything.
_REDUCTIONS = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)


def follow(network: Network, node: Node, tensor: keras.KerasTensor) -> list[Node]:
    """Returns the calls from `node` to that of a linear layer with a kernel, or an empty list.

    Between them are calls of linear layers without weights, such as padding, whose outputs nothing
    else reads.

    Args:
        network: the calls of the model.
        node: a call that reads `tensor`.
        tensor: the tensor.
    """
    models = network.models(node)
    calls: list[Node] = []
    reader: Node | None = node
    while reader is not None and network.models(reader) == models:
        layer = reader.operation
        if not isinstance(layer, keras.Layer) or why_not_linear(layer) is not None:
            break
        if not _reads_only(reader, tensor):
            break
        calls.append(reader)
        if keeps_input(layer):
            return calls
        if isinstance(layer, _REDUCTIONS) or len(network.calls(layer)) > 1:
            break
        tensor = reader.outputs[0]
        reader = network.only_reader(tensor)
    return []


def _reads_only(node: Node, tensor: keras.KerasTensor) -> bool:
    args, kwargs = node.arguments.args, node.arguments.kwargs
    only = len(args) == 1 and args[0] is tensor
    return only and all(value is None for value in kwargs.values())


def why_kept(network: Network, node: Node, tensor: keras.KerasTensor) -> str | None:
    """Returns why the backward pass keeps a tensor for a call that reads it, or None.

    Args:
        network: the calls of the model.
        node: the call.
        tensor: the tensor.
    """
    operation = node.operation
    normalization = unwrap(operation)
    if type(operation) in _KEEP_NOTHING or isinstance(operation, LinearOperations):
        return None
    if isinstance(normalization, layers.GroupNormalization):
        return _why_kept_by_normalization(normalization, node, tensor)
    kind = type(operation).__name__
    if activation_name(operation) is not None:
        return f"{kind} comes after it: it is computed again only as the normalization's own"
    if isinstance(operation, ACTIVATIONS):
        return f"{kind} comes after it, an activation that the fused op does not have"
    if not isinstance(operation, keras.Layer):
        return f"the operation {kind} may keep its output"
    if functional(operation) is not None:
        return f"the model {operation.name} may keep its output"
    refusal = why_not_linear(operation)
    if refusal is not None:
        if keeps_input(operation) and hasattr(operation, "kernel"):
            return f"{kind} keeps its output, and {refusal}"
        return f"{kind} {'keeps' if of_keras(type(operation)) else 'may keep'} its output"
    if keeps_input(operation):
        return f"{kind} keeps its output"
    if getattr(operation, "interpolation", "nearest") != "nearest":
        return f"{kind} with {operation.interpolation} interpolation keeps its output"
    if isinstance(operation, _VIEWS):
        return why_tensor_kept(network, node.outputs[0])
    return None


def why_tensor_kept(network: Network, tensor: keras.KerasTensor) -> str | None:
    """Returns why the backward pass keeps a tensor for anything that reads it, or None."""
    reasons = [why_kept(network, node, tensor) for node in network.readers(tensor)]
    reasons += [
        _why_leaving(network, model, tensor) for model in network.models_with_output(tensor)
    ]
    return next(filter(None, reasons), None)


def why_output_kept(network: Network, tensor: keras.KerasTensor) -> str | None:
    """Returns why the backward pass keeps a tensor outside of the models it leaves, or None."""
    models = network.models_with_output(tensor)
    return next(filter(None, (_why_leaving(network, model, tensor) for model in models)), None)


def _why_leaving(network: Network, model: keras.Model, tensor: keras.KerasTensor) -> str | None:
    if network.is_root(model):
        return None  # Read by the loss.
    calls = network.calls(model)
    graph = functional(model)
    if len(calls) != 1 or graph is None:
        return f"it is an output of {model.name}, and what reads it there is not known"
    outer = (y for x, y in zip(graph.outputs, calls[0].outputs, strict=True) if x is tensor)
    return next(filter(None, (why_tensor_kept(network, y) for y in outer)), None)


def _why_kept_by_normalization(
    normalization: keras.Layer, node: Node, tensor: keras.KerasTensor
) -> str | None:
    if not is_residual(node, tensor):
        return "another GroupNormalization keeps its output"
    is_paired = isinstance(node.operation, layers.RecomputedNormalization)
    if fused_name(normalization.activation) == "linear" and not is_paired:
        return None
    return "another GroupNormalization keeps its output as a residual"


def is_residual(node: Node, tensor: keras.KerasTensor) -> bool:
    """Returns whether a call of a normalization reads a tensor as `residual` only."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    given = dict(zip(("inputs", "residual", "mask", "scale", "shift"), args, strict=False)) | kwargs
    return [name for name, value in given.items() if value is tensor] == ["residual"]
