"""The graphs of functional models: who reads what, and what a normalization follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras

from .. import layers
from .._keras import Functional, is_in_graph
from .composites import Composites
from .walk import Path, attributes, functional, items

NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)
_KERNELS = ("kernel", "_kernel", "depthwise_kernel", "embeddings", "recurrent_kernel")

#: Why a convolution is not followed by a normalization.
AT_OUTPUT = "its output leaves the model without a normalization"
BEFORE_KERNEL = "the next layer with a kernel comes before a normalization"
BEFORE_KEPT = "the normalization behind it is kept"


def unwrap(operation):
    """Returns the layer inside `TimeDistributed`, any other operation as it is."""
    while isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    return operation


def runs_its_graph(model: keras.Model) -> bool:
    """Whether a model with a graph computes what the graph says: its class has no other `call`."""
    return type(model).call in (Functional.call, keras.Sequential.call)


class Network:
    """All calls within a model, its submodels and those that it holds in attributes.

    Functional models may share calls: a feature extractor those of the model it is a part of.

    Args:
        found: the layers of the model with their paths, of `walk`.
    """

    def __init__(self, found: Iterable[tuple[Path, keras.Layer]]):
        self._calls = {}
        self._readers = {}
        self._pinned = set()
        self._paths = {}
        nodes = {}
        for path, layer in found:
            self._pin(attributes(layer).values())
            graph = functional(layer)
            if graph is None:
                continue
            self._pin(graph.outputs)
            step = "layers" if isinstance(layer, keras.Sequential) else "operations"
            for i, operation in enumerate(getattr(layer, step)):
                self._paths.setdefault(id(operation), (*path, step, i))
                for node in operation._inbound_nodes:
                    if not node.is_input and is_in_graph(graph, node):
                        nodes[id(node)] = node
                        if not runs_its_graph(layer):
                            self._pin(node.outputs)
        for node in nodes.values():
            self._calls.setdefault(id(node.operation), []).append(node)
            for tensor in node.input_tensors:
                self._readers.setdefault(id(tensor), []).append(node)

    def _pin(self, values):
        pending, seen = list(values), set()
        while pending:
            value = pending.pop()
            if isinstance(value, keras.KerasTensor):
                self._pinned.add(id(value))
            elif not isinstance(value, keras.Layer) and id(value) not in seen:
                seen.add(id(value))
                pending += [item for _, item in items(value)]

    def calls(self, operation) -> list:
        """Returns the calls of an operation."""
        return self._calls.get(id(operation), [])

    def only_reader(self, tensor):
        """Returns the one call that reads a tensor which is nowhere else at hand, or None."""
        readers = self._readers.get(id(tensor), [])
        return readers[0] if len(readers) == 1 and id(tensor) not in self._pinned else None

    def path(self, operation) -> Path:
        """Returns the path to an operation of a graph."""
        return self._paths[id(operation)]


class Graph:
    """The calls of one functional model, and whether normalizations follow them.

    Args:
        model: the functional model.
        counts: whether a normalization takes back the scale of what it reads.
        composites: follows the calls of layers that are made of layers.
        outputs: for each output of the model, in order, why no normalization follows it where
            the model is used, or None if one does. Defaults to the end of all there is.
    """

    def __init__(
        self,
        model: Functional,
        counts: Callable[[keras.Layer], bool],
        composites: Composites,
        outputs: list[str | None] | None = None,
    ):
        self.model = model
        self._counts = counts
        self._composites = composites
        self._reasons = [AT_OUTPUT] * len(model.outputs) if outputs is None else outputs
        self._calls = {}
        self._readers = {}
        self._memo = {}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                self._calls.setdefault(id(node.operation), []).append(node)
                for tensor in node.input_tensors:
                    self._readers.setdefault(id(tensor), []).append(node)

    def calls(self, operation) -> list:
        """Returns the calls of an operation in this graph."""
        return self._calls.get(id(operation), [])

    def reasons(self, operation) -> list[str | None]:
        """Returns, for each output of an operation, why one of its calls is not normalized."""
        calls = [self._outputs(node) for node in self.calls(operation)]
        return [next(filter(None, reasons), None) for reasons in zip(*calls, strict=True)]

    def not_normalized(self, tensor) -> str | None:
        """Returns why not every path from the tensor meets a normalization before a kernel.

        Returns:
            `AT_OUTPUT`, `BEFORE_KERNEL`, `BEFORE_KEPT`, or None if every path does.
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

    def _outputs(self, node) -> list[str | None]:
        return [self.not_normalized(output) for output in node.outputs]

    def _reasons_behind(self, node, tensor):
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


def _has_kernel(operation) -> bool:
    if not isinstance(operation, keras.Layer):
        return False
    if any(hasattr(operation, name) for name in _KERNELS):
        return True
    if isinstance(operation, layers.WeightStandardization):
        return True
    # A layer made of layers: what comes first in it is not known.
    return bool(operation._layers) and bool(operation.weights)
