"""The graph of a functional model: who reads what."""

from __future__ import annotations

import keras
from keras.src.models.functional import Functional

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


def functional(operation) -> Functional | None:
    """Returns the functional model that an operation is, or runs on if it is a `Sequential`."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if isinstance(operation, Functional) else None


def unwrap(operation):
    """Returns the layer inside `TimeDistributed`, any other operation as it is."""
    while isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    return operation


class Graph:
    """The calls of one functional model and who reads their outputs.

    Args:
        model: the functional model.
        outputs: for each output of the model, in order, why no normalization follows it where
            the model is used, or None if one does. Defaults to the end of all there is.
    """

    def __init__(self, model: Functional, outputs: list[str | None] | None = None):
        self.model = model
        self.is_root = outputs is None
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
        """Returns the nodes at which the operation is called."""
        return self._calls.get(id(operation), [])

    def is_output(self, tensor) -> bool:
        """Whether the tensor is an output of the model."""
        return any(tensor is output for output in self.model.outputs)

    def only_reader(self, tensor):
        """Returns the one node that reads the tensor, or None if there are more or fewer."""
        readers = self._readers.get(id(tensor), [])
        return readers[0] if len(readers) == 1 and not self.is_output(tensor) else None

    def not_normalized(self, tensor) -> str | None:
        """Returns why not every path from the tensor meets a normalization before a kernel.

        Returns:
            `AT_OUTPUT`, `BEFORE_KERNEL`, or None if every path does.
        """
        if id(tensor) not in self._memo:
            reasons = [
                reason
                for output, reason in zip(self.model.outputs, self._reasons, strict=True)
                if output is tensor
            ]
            for node in self._readers.get(id(tensor), []):
                reasons += self._reasons_behind(node, tensor)
            self._memo[id(tensor)] = next(filter(None, reasons), None)
        return self._memo[id(tensor)]

    def not_normalized_outputs(self, node) -> list[str | None]:
        """Returns `not_normalized` of each output of a call."""
        return [self.not_normalized(output) for output in node.outputs]

    def _reasons_behind(self, node, tensor):
        operation = node.operation
        if isinstance(unwrap(operation), NORMALIZATIONS):
            return [None]
        inner = functional(operation)
        if inner is not None:
            inside = Graph(inner, self.not_normalized_outputs(node))
            return [
                inside.not_normalized(inner_input)
                for inner_input, argument in zip(inner.inputs, node.input_tensors, strict=False)
                if argument is tensor
            ]
        if _has_kernel(operation):
            return [BEFORE_KERNEL]
        return self.not_normalized_outputs(node)


def _has_kernel(operation) -> bool:
    if not isinstance(operation, keras.Layer):
        return False
    if any(hasattr(operation, name) for name in _KERNELS):
        return True
    # A layer made of layers: what comes first in it is not known.
    return bool(operation._layers) and bool(operation.weights)
