"""Decides which layers of a model to replace, and by what. The model does not change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from .. import layers
from .._keras import Functional, Node, get_keras_mask, rematerialized_like
from . import rules
from .change import Build, Change
from .composites import Composites
from .fusion import Fusion, find_fusion, why_not_fused
from .network import (
    AT_OUTPUT,
    BEFORE_KEPT,
    BEFORE_KERNEL,
    NORMALIZATIONS,
    Graph,
    Network,
    Reasons,
)
from .report import FUSED, KEPT, REPLACED, ConversionReport, LayerChange
from .rules import Options
from .walk import TRACKED, Path, captured, children, dotted, functional, holders, walk

_OPAQUE = (keras.layers.SpectralNormalization,)
_UNREACHED = "a function or a set holds it, in which it cannot be replaced"


def decide(model: keras.Model, options: Options, report: ConversionReport) -> list[Change]:
    """Returns the changes to make in a model.

    Args:
        model: the model. It does not change.
        options: the arguments of `convert`.
        report: receives what is replaced, fused and kept, and why.
    """
    return _Decider(model, options, report).changes


class _Decider:
    def __init__(self, model: keras.Model, options: Options, report: ConversionReport) -> None:
        self._options = options
        self._report = report
        self._found = list(walk(model))
        self._network = Network(self._found)
        graph = functional(model)
        self._outputs = [] if graph is None else graph.outputs
        self._holders = holders(self._found)
        self._taken: set[int] = set()
        self._seen: set[int] = set()
        self._few: list[tuple[str, int]] = []
        self.changes: list[Change] = []
        with Composites(layer for _, layer in self._found) as self._composites:
            self._visit(model, (), "", None)
        self._note_unreached()
        self._note_few_numbers()
        self._note_untracked(model)

    def _visit(
        self,
        layer: keras.Layer,
        path: Path,
        scope: str,
        reasons: Reasons | None,
        calls: Sequence[Node] = (),
    ) -> None:
        """Decides about a layer and the layers inside.

        Args:
            layer: the layer or model.
            path: the path to it.
            scope: the names of the layers that contain it, for the report.
            reasons: for each of its outputs, why no normalization follows, or None if one does.
                None for the model that is converted.
            calls: the nodes at which it is called, if they are known.
        """
        if id(layer) in self._seen:
            return
        self._seen.add(id(layer))
        inside = f"{scope}{layer.name}/" if reasons is not None else ""
        if rules.concerns(layer, self._options):
            if isinstance(layer, NORMALIZATIONS):
                self._normalization(layer, path, scope)
            else:
                reason = next(filter(None, reasons or ()), None)
                self._kernel(layer, path, scope, reason)
        elif isinstance(layer, layers.RecomputedNormalization):
            self._pair(layer, path, inside, reasons)
        elif not isinstance(layer, _OPAQUE):
            graph = self._composites.graph(layer, calls)
            if graph is not None:
                self._graph(layer, graph, path, inside, reasons)
            else:
                self._composite(layer, path, inside, reasons)

    def _graph(
        self,
        layer: keras.Layer,
        functional: Functional,
        path: Path,
        scope: str,
        reasons: Reasons | None,
    ) -> None:
        """Decides about the layers inside a layer or model whose graph is known."""
        outputs = len(functional.outputs)
        if reasons is not None and len(reasons) != outputs:
            reasons = [next(filter(None, reasons), None)] * outputs
        graph = Graph(functional, self._counts, self._composites, reasons)
        inside = list(children(layer))
        for below, child in inside:
            calls = graph.calls(child)
            if calls:
                self._visit(child, path + below, scope, graph.reasons(child), calls)
        for below, child in inside:
            self._visit(child, path + below, scope, [rules.OUTSIDE] * _outputs_of(child))

    def _composite(
        self, layer: keras.Layer, path: Path, scope: str, reasons: Reasons | None
    ) -> None:
        """Decides about the layers inside a layer whose `call` cannot be traced."""
        inside = [child for _, child in walk(layer)][1:]
        norms = [norm for norm in inside if isinstance(norm, NORMALIZATIONS) and norm.built]
        reason = AT_OUTPUT if reasons is None else next(filter(None, reasons), None)
        if norms:
            counts = all(self._counts(norm) for norm in norms)
            reason = rules.ASSUMED if counts else BEFORE_KEPT
        elif sum(rules.has_own_kernel(child) for child in inside) > 1:
            reason = BEFORE_KERNEL
        for below, child in children(layer):
            self._visit(child, path + below, scope, [reason] * _outputs_of(child))

    def _pair(
        self,
        pair: layers.RecomputedNormalization,
        path: Path,
        scope: str,
        reasons: Reasons | None,
    ) -> None:
        """Decides about the layers in a pair, each of which is on the way to one output."""
        readers = pair._readers()
        reasons = reasons or [AT_OUTPUT] * len(readers)
        if len(reasons) != len(readers):
            reasons = [next(filter(None, reasons), None)] * len(readers)
        behind = {
            id(layer): reason
            for reader, reason in zip(readers, reasons, strict=True)
            for layer in reader
        }
        for below, child in children(pair):
            self._visit(child, path + below, scope, [behind.get(id(child))])

    # Normalizations and layers with a kernel

    def _normalization(self, layer: keras.Layer, path: Path, scope: str) -> None:
        decision = rules.normalization(layer, self._options, self._is_masked(layer))
        if decision.make is None:
            self._note(layer, scope, KEPT, decision)
            return
        fusion = self._fusion(layer)
        self._note(layer, scope, REPLACED, decision)
        self._report.outputs_change |= not decision.same
        for name in decision.drops:
            self._report.dropped[name] = self._report.dropped.get(name, 0) + 1
        self._note_fusion(fusion, scope)
        if decision.few:
            self._few.append((scope + layer.name, decision.few))
        addition, activation = (
            None if operation is None else self._network.path(operation)
            for operation in (fusion.addition, fusion.activation_operation)
        )
        self._change(
            layer,
            path,
            functools.partial(decision.make, fusion.activation),
            addition=addition,
            norm_input=fusion.norm_input,
            activation=activation,
        )

    def _change(
        self, layer: keras.Layer, path: Path, make: Callable[[], keras.Layer], **fusion: Any
    ) -> None:
        with rematerialized_like(layer):
            new = make()
        self.changes.append(Change(path, new, type(layer).__name__, Build.of(layer), **fusion))

    def _fusion(self, layer: keras.Layer) -> Fusion:
        fused = self._options.fuse and self._options.norm is not None
        if not fused or self._holders[id(layer)] > 1:
            return Fusion()
        fusion = find_fusion(self._network, layer, self._outputs, self._taken)
        self._taken.add(id(fusion.addition))
        return fusion

    def _kernel(self, layer: keras.Layer, path: Path, scope: str, reason: str | None) -> None:
        decision = rules.kernel(layer, self._options, reason)
        if decision.make is None:
            self._note(layer, scope, KEPT, decision)
            return
        self._note(layer, scope, REPLACED, decision)
        self._report.outputs_change = True
        self._change(layer, path, decision.make)

    def _counts(self, norm: keras.Layer) -> bool:
        return rules.counts(norm, self._options)

    def _is_masked(self, layer: keras.Layer) -> bool:
        inputs = [tensor for node in self._network.calls(layer) for tensor in node.input_tensors]
        return any(get_keras_mask(tensor) is not None for tensor in inputs)

    # The report

    def _note(self, layer: keras.Layer, scope: str, action: str, decision: rules.Decision) -> None:
        kind = type(layer).__name__
        change = LayerChange(scope + layer.name, kind, action, decision.result, decision.reason)
        self._report.changes.append(change)

    def _note_fusion(self, fusion: Fusion, scope: str) -> None:
        for operation in fusion.absorbed:
            part = "residual" if operation is fusion.addition else fusion.activation
            kind = type(operation).__name__
            name = scope + operation.name
            change = LayerChange(name, kind, FUSED, f"{part} of the normalization")
            self._report.changes.append(change)
        if fusion.other_activation is not None:
            other = fusion.other_activation
            self._note(other, scope, KEPT, rules.Decision(reason=why_not_fused(other)))

    def _note_unreached(self) -> None:
        for path, layer in self._found:
            unreached = [("", layer)] if TRACKED in path else captured(layer)
            for name, held in unreached:
                if id(held) not in self._seen and rules.concerns(held, self._options):
                    self._seen.add(id(held))
                    scope = f"{layer.name}.{name}/" if name else ""
                    self._note(held, scope, KEPT, rules.Decision(reason=_UNREACHED))

    def _note_few_numbers(self) -> None:
        if self._few:
            name, numbers = min(self._few, key=lambda norm: norm[1])
            self._report.notes.append(
                f"groups of fewer than {rules.FEWEST_NUMBERS} numbers, whose statistics are noise, "
                f"in {len(self._few)} of the normalizations at this input size ({name}: "
                f"{numbers}): use fewer groups (`groups`), more channels per group "
                "(`group_size`) or larger inputs"
            )

    def _note_untracked(self, model: keras.Model) -> None:
        tracked = {id(layer) for layer in model._flatten_layers()}
        names = [
            dotted(path)
            for path, layer in self._found
            if id(layer) not in tracked and layer.weights
        ]
        if names:
            self._report.notes.append(
                "Keras neither trains nor saves layers that only plain Python objects hold: "
                + names[0]
                + (f" and {len(names) - 1} more" if names[1:] else "")
            )


def _outputs_of(layer: keras.Layer) -> int:
    graph = functional(layer)
    return 1 if graph is None else len(graph.outputs)
