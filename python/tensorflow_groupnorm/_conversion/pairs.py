"""Finds the normalizations whose output need not be kept for the backward pass.

A normalization and a convolution that reads its output both keep their input. As one
`RecomputedNormalization` they keep that of the normalization. This saves memory only if nothing
else keeps the tensor between them.
"""

from __future__ import annotations

from collections.abc import Callable

import keras

from .. import layers
from .._keras import Node, get_keras_mask
from ..layers._activations import fused_name
from ..layers._rematerialization import is_rematerialized
from .change import Pair
from .network import Network, runs_its_graph, unwrap
from .readers import follow, is_residual, why_kept, why_output_kept
from .report import NOT_PAIRED, PAIRED, ConversionReport, LayerChange
from .walk import Path, at, holders, walk

_NOT_CALLED = "no graph of a model calls it: the `call` of a class cannot be changed"
_NOTHING = "nothing keeps its output for the backward pass"
# A pair of several readers, or of layers in a chain, returns a list.
_SEQUENTIAL = "in a Sequential model, only the layer directly after it could be paired with it"


class _NotPairedError(Exception):
    """Why a normalization stays on its own."""


def find_pairs(
    model: keras.Model, keep: Callable[[keras.Layer], bool], report: ConversionReport
) -> list[Pair]:
    """Returns the normalizations of a model to pair with the layers that read their outputs.

    Args:
        model: the model. It does not change.
        keep: returns whether a layer has to stay on its own.
        report: receives what is paired, and why other normalizations are not.
    """
    found = list(walk(model))
    finder = _Finder(found, keep)
    paired = {
        id(layer.normalization)
        for _, layer in found
        if isinstance(layer, layers.RecomputedNormalization)
    }
    pairs = []
    for path, layer in found:
        if not isinstance(layer, keras.layers.GroupNormalization) or id(layer) in paired:
            continue
        name, kind = _name(model, path), type(layer).__name__
        try:
            pair = finder.pair(layer, path)
        except _NotPairedError as reason:
            report.changes.append(LayerChange(name, kind, NOT_PAIRED, reason=str(reason)))
            continue
        pairs.append(pair)
        kinds = {type(at(model, reader[-1])).__name__: None for reader in pair.readers if reader}
        result = f"RecomputedNormalization with {', '.join(kinds)}"
        report.changes.append(LayerChange(name, kind, PAIRED, result))
    return pairs


def _name(model: keras.Model, path: Path) -> str:
    holders = [at(model, path[:i]) for i in range(1, len(path) + 1)]
    return "/".join(holder.name for holder in holders if isinstance(holder, keras.Layer))


class _Finder:
    def __init__(
        self, found: list[tuple[Path, keras.Layer]], keep: Callable[[keras.Layer], bool]
    ) -> None:
        self._keep = keep
        self._network = Network(found)
        self._holders = holders(found)

    def pair(self, norm: keras.Layer, path: Path) -> Pair:
        """Returns the pair of a normalization and its readers, or raises why there is none."""
        if self._keep(norm):
            raise _NotPairedError("named in `keep`")
        _check_normalization(norm)
        (node, model) = self._only_call(norm)
        if any(get_keras_mask(tensor) is not None for tensor in node.input_tensors):
            raise _NotPairedError("a mask reaches it")
        self._check_residual(norm, node)
        y = node.outputs[0]
        readers = [self._reader(reader, y) for reader in self._network.readers(y)]
        leaving = self._network.models_with_output(y)
        kept = why_output_kept(self._network, y)
        if kept is not None:
            raise _NotPairedError(kept)
        if not any(readers):
            raise _NotPairedError(_NOTHING)
        with_layers = tuple(reader for reader in readers if reader)
        itself = len(with_layers) < len(readers) or leaving or self._network.is_held(y)
        if isinstance(model, keras.Sequential) and (itself or len(with_layers[0]) > 1):
            raise _NotPairedError(_SEQUENTIAL)
        return Pair(path, with_layers + (((),) if itself else ()))

    def _check_residual(self, norm: keras.Layer, node: Node) -> None:
        """Raises if a pair would be the first to keep the residual, as a linear layer does not."""
        residuals = [tensor for tensor in node.input_tensors if is_residual(node, tensor)]
        if not residuals or fused_name(norm.activation) != "linear":
            return
        (residual,) = residuals
        producer = unwrap(residual._keras_history.operation)
        for reader in self._network.readers(residual):
            # With the normalization that computes it, such a reader may become a pair.
            free = isinstance(producer, layers.GroupNormalization) and follow(
                self._network, reader, residual
            )
            if reader is not node and not free and why_kept(self._network, reader, residual):
                return
        raise _NotPairedError("the pair would keep its residual instead of its output")

    def _only_call(self, norm: keras.Layer) -> tuple[Node, keras.Model]:
        calls = self._network.calls(norm)
        if not calls:
            raise _NotPairedError(_NOT_CALLED)
        if len(calls) > 1:
            raise _NotPairedError("it is called several times")
        models = self._network.models(calls[0])
        if len(models) > 1 or self._holders[id(norm)] > 1:
            raise _NotPairedError("several models or layers share it")
        if not runs_its_graph(models[0]):
            raise _NotPairedError(_NOT_CALLED)
        return calls[0], models[0]

    def _reader(self, node: Node, tensor: keras.KerasTensor) -> tuple[Path, ...]:
        """Returns the paths to the layers of a reader; none if it keeps nothing of the tensor."""
        calls = follow(self._network, node, tensor)
        if not calls:
            kept = why_kept(self._network, node, tensor)
            if kept is not None:
                raise _NotPairedError(kept)
            return ()
        for call in calls:
            kind = type(call.operation).__name__
            calls_of_it = self._network.calls(call.operation)
            if len(calls_of_it) > 1 or self._holders[id(call.operation)] > 1:
                raise _NotPairedError(f"{kind} keeps its output, and is shared")
            if self._keep(call.operation):
                raise _NotPairedError(f"{kind}, named in `keep`, keeps its output")
            if is_rematerialized(call.operation):
                raise _NotPairedError(f"{kind} reads its output under a RematScope")
        return tuple(self._network.path(call.operation) for call in calls)


def _check_normalization(norm: keras.Layer) -> None:
    kind = type(norm)
    if not isinstance(norm, layers.GroupNormalization):
        raise _NotPairedError("only tfgn.layers.GroupNormalization computes its output again")
    if kind.call is not layers.GroupNormalization.call:
        raise _NotPairedError(f"{kind.__name__} overrides call()")
    if fused_name(norm.activation) is None:
        name = getattr(norm.activation, "__name__", type(norm.activation).__name__)
        raise _NotPairedError(f"its activation {name} is not part of the op")
    if norm.activity_regularizer is not None:
        raise _NotPairedError("it has an activity regularizer")
    if is_rematerialized(norm):
        raise _NotPairedError("it is under a RematScope, which computes it again already")
