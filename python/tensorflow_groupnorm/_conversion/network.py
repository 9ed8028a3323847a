"""The graphs of functional models: which call reads which tensor, and what follows a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras

from .. import layers
from .._keras import Functional, Node, is_in_graph
from .composites import Composites
from .walk import Path, attributes, functional, items

NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)
_KERNELS = ("kernel", "_kernel", "depthwise_kernel", "embeddings", "recurrent_kernel")

#: For each output of a layer, why no normalization follows it, or None if one does.
Reasons = list[str | None]

#: Why a convolution is not followed by a normalization.
AT_OUTPUT = "its output leaves the model without a normalization"
BEFORE_KERNEL = "the next layer with a kernel comes before a normalization"
BEFORE_KEPT = "the normalization after it is kept"


def unwrap(operation: keras.Operation) -> keras.Operation:
    """Returns the layer inside `TimeDistributed`, the normalization of a pair, or the operation."""
    while isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    if isinstance(operation, layers.RecomputedNormalization):
        return operation.normalization
    return operation


def runs_its_graph(model: keras.Model) -> bool:
    """Returns whether a model computes its graph: its class does not override `call`."""
    return type(model).call in (Functional.call, keras.Sequential.call)


class Network:
    """All calls in a model, in its submodels and in models that it holds in attributes.

    Functional models may share calls, as a feature extractor does with the model it is part of.

    Args:
        found: the layers of the model with their paths, from `walk`.
    """

    def __init__(self, found: Iterable[tuple[Path, keras.Layer]]) -> None:
        self._calls: dict[int, list[Node]] = {}
        self._readers: dict[int, list[Node]] = {}
        self._models: dict[int, list[keras.Model]] = {}
        self._outputs: dict[int, list[keras.Model]] = {}
        self._held: set[int] = set()
        self._paths: dict[int, Path] = {}
        self._root: keras.Layer | None = None
        nodes: dict[int, Node] = {}
        for path, layer in found:
            self._root = layer if path == () else self._root
            self._hold(attributes(layer).values())
            graph = functional(layer)
            if graph is None:
                continue
            for tensor in graph.outputs:
                self._outputs.setdefault(id(tensor), []).append(layer)
            step = "layers" if isinstance(layer, keras.Sequential) else "operations"
            for i, operation in enumerate(getattr(layer, step)):
                self._paths.setdefault(id(operation), (*path, step, i))
                for node in operation._inbound_nodes:
                    if not node.is_input and is_in_graph(graph, node):
                        nodes[id(node)] = node
                        self._models.setdefault(id(node), []).append(layer)
                        if not runs_its_graph(layer):
                            self._hold(node.outputs)
        for node in nodes.values():
            self._calls.setdefault(id(node.operation), []).append(node)
            for tensor in node.input_tensors:
                self._readers.setdefault(id(tensor), []).append(node)

    def _hold(self, values: Iterable[Any]) -> None:
        """Records tensors that are used other than by calls and as outputs of models."""
        pending, seen = list(values), set[int]()
        while pending:
            value = pending.pop()
            if isinstance(value, keras.KerasTensor):
                self._held.add(id(value))
            elif not isinstance(value, keras.Layer) and id(value) not in seen:
                seen.add(id(value))
                pending += [item for _, item in items(value)]

    def calls(self, operation: keras.Operation) -> list[Node]:
        """Returns the calls of an operation."""
        return self._calls.get(id(operation), [])

    def only_reader(self, tensor: keras.KerasTensor) -> Node | None:
        """Returns the only call that reads a tensor, or None if anything else uses it."""
        readers = self._readers.get(id(tensor), [])
        others = self.is_held(tensor) or self.models_with_output(tensor)
        return readers[0] if len(readers) == 1 and not others else None

    def readers(self, tensor: keras.KerasTensor) -> list[Node]:
        """Returns the calls that read a tensor, each once."""
        return list(dict.fromkeys(self._readers.get(id(tensor), [])))

    def models(self, node: Node) -> list[keras.Model]:
        """Returns the models whose graphs have a call."""
        return self._models[id(node)]

    def models_with_output(self, tensor: keras.KerasTensor) -> list[keras.Model]:
        """Returns the models of which a tensor is an output."""
        return self._outputs.get(id(tensor), [])

    def is_root(self, model: keras.Model) -> bool:
        """Returns whether this is the outermost model."""
        return model is self._root

    def is_held(self, tensor: keras.KerasTensor) -> bool:
        """Returns whether attributes hold a tensor, or a `call` that is not known may use it."""
        return id(tensor) in self._held

    def path(self, operation: keras.Operation) -> Path:
        """Returns the path to an operation of a graph."""
        return self._paths[id(operation)]


class Graph:
    """The calls of one functional model, and whether normalizations follow them.

    Args:
        model: the functional model.
        counts: returns whether a normalization makes the scale of its input irrelevant.
        composites: traces the calls of layers that are made of layers.
        outputs: for each output of the model, why no normalization follows it where the model is
            used, or None if one does. By default, the outputs are read by nothing.
    """

    def __init__(
        self,
        model: Functional,
        counts: Callable[[keras.Layer], bool],
        composites: Composites,
        outputs: Reasons | None = None,
    ) -> None:
        self.model = model
        self._counts = counts
        self._composites = composites
        at_outputs: Reasons = [AT_OUTPUT] * len(model.outputs)
        self._reasons = at_outputs if outputs is None else outputs
        self._calls: dict[int, list[Node]] = {}
        self._readers: dict[int, list[Node]] = {}
        self._memo: dict[int, str | None] = {}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                self._calls.setdefault(id(node.operation), []).append(node)
                for tensor in node.input_tensors:
                    self._readers.setdefault(id(tensor), []).append(node)

    def calls(self, operation: keras.Operation) -> list[Node]:
        """Returns the calls of an operation in this graph."""
        return self._calls.get(id(operation), [])

    def reasons(self, operation: keras.Operation) -> Reasons:
        """Returns, for each output of an operation, why one of its calls is not normalized."""
        calls = [self._outputs(node) for node in self.calls(operation)]
        return [next(filter(None, reasons), None) for reasons in zip(*calls, strict=True)]

    def not_normalized(self, tensor: keras.KerasTensor) -> str | None:
        """Returns why a path from the tensor does not reach a normalization before a kernel.

        Returns:
            `AT_OUTPUT`, `BEFORE_KERNEL`, `BEFORE_KEPT`, or None if every path reaches one.
        """
        if id(tensor) not in self._memo:
            reasons = [
                reason
                for output, reason in zip(self.model.outputs, self._reasons, strict=False)
                if output is tensor
            ]
            for node in self._readers.get(id(tensor), []):
                reasons += self._reasons_behind(node, tensor)
            self._memo[id(tensor)] = next(filter(None, reasons), None)
        return self._memo[id(tensor)]

    def _outputs(self, node: Node) -> Reasons:
        return [self.not_normalized(output) for output in node.outputs]

    def _reasons_behind(self, node: Node, tensor: keras.KerasTensor) -> Reasons:
        operation = node.operation
        if isinstance(unwrap(operation), NORMALIZATIONS):
            return [None if self._counts(unwrap(operation)) else BEFORE_KEPT]
        if isinstance(operation, keras.Layer):
            inner = self._composites.graph(operation, [node])
            if inner is not None:
                inside = Graph(inner, self._counts, self._composites, self._outputs(node))
                return [
                    inside.not_normalized(inner_input)
                    for inner_input, argument in zip(inner.inputs, node.input_tensors, strict=False)
                    if argument is tensor
                ]
        if _has_kernel(operation):
            return [BEFORE_KERNEL]
        return self._outputs(node)


def _has_kernel(operation: keras.Operation) -> bool:
    if not isinstance(operation, keras.Layer):
        return False
    if any(hasattr(operation, name) for name in _KERNELS):
        return True
    if isinstance(operation, layers.WeightStandardization):
        return True
    # In a layer made of layers, the first layer is not known.
    return bool(operation._layers) and bool(operation.weights)
