"""Decides what becomes of each layer of a model, which stays as it is."""

from __future__ import annotations

import collections
import functools

import keras

from .._keras import get_keras_mask, rematerialized_like
from . import rules
from .change import Build, Change
from .composites import Composites
from .fusion import Fusion, find_fusion
from .network import AT_OUTPUT, BEFORE_KEPT, BEFORE_KERNEL, NORMALIZATIONS, Graph, Network
from .report import FUSED, KEPT, REPLACED, ConversionReport, LayerChange
from .walk import TRACKED, Path, captured, children, dotted, functional, walk

_OPAQUE = (keras.layers.SpectralNormalization,)
_UNREACHED = "a function or a set holds it, in which it cannot be replaced"


def decide(model: keras.Model, options: rules.Options, report: ConversionReport) -> list[Change]:
    """Returns what is to be changed in a model.

    Args:
        model: the model; it is not changed.
        options: what the user asked for.
        report: is filled with what is replaced, fused and kept, and why.
    """
    return _Decider(model, options, report).changes


class _Decider:
    def __init__(self, model, options, report):
        self._options = options
        self._report = report
        self._found = list(walk(model))
        self._network = Network(self._found)
        self._outputs = [] if functional(model) is None else functional(model).outputs
        self._holders = _holders(self._found)
        self._taken = set()
        self._seen = set()
        self._few = []
        self.changes = []
        with Composites(layer for _, layer in self._found) as self._composites:
            self._visit(model, (), "", None)
        self._note_unreached()
        self._note_few_numbers()
        self._note_untracked(model)

    def _visit(self, layer, path: Path, scope: str, reasons: list[str | None] | None, calls=()):
        """Decides about a layer and those inside.

        Args:
            layer: the layer or model.
            path: where it is.
            scope: the names of what it is inside, for the report.
            reasons: for each of its outputs, why no normalization follows, or None if one does;
                None for the model that is converted.
            calls: the nodes at which it is called, where they are known.
        """
        if id(layer) in self._seen:
            return
        self._seen.add(id(layer))
        inside = f"{scope}{layer.name}/" if reasons is not None else ""
        if rules.concerns(layer, self._options):
            if isinstance(layer, NORMALIZATIONS):
                self._normalization(layer, path, scope)
            else:
                reason = next(filter(None, reasons), None)
                self._kernel(layer, path, scope, reason)
        elif not isinstance(layer, _OPAQUE):
            graph = self._composites.graph(layer, calls)
            if graph is not None:
                self._graph(layer, graph, path, inside, reasons)
            else:
                self._composite(layer, path, inside, reasons)

    def _graph(self, layer, graph, path, scope, reasons):
        """Decides about a layer or model whose graph is known."""
        if reasons is not None and len(reasons) != len(graph.outputs):
            reasons = [next(filter(None, reasons), None)] * len(graph.outputs)
        graph = Graph(graph, self._counts, self._composites, reasons)
        inside = list(children(layer))
        for below, child in inside:
            calls = graph.calls(child)
            if calls:
                self._visit(child, path + below, scope, graph.reasons(child), calls)
        for below, child in inside:
            self._visit(child, path + below, scope, [rules.OUTSIDE] * _outputs_of(child))

    def _composite(self, layer, path, scope, reasons):
        """Decides about a layer that calls other layers in code that cannot be followed."""
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

    # Layers that concern the conversion

    def _normalization(self, layer, path, scope):
        decision = rules.normalization(layer, self._options, self._is_masked(layer))
        if decision.make is None:
            self._note(layer, scope, KEPT, decision)
            return
        fusion = self._fusion(layer)
        self._note(layer, scope, REPLACED, decision)
        for name in decision.drops:
            self._report.dropped[name] = self._report.dropped.get(name, 0) + 1
        for operation in fusion.absorbed:
            part = "residual" if operation is fusion.addition else fusion.activation
            kind = type(operation).__name__
            name = scope + operation.name
            change = LayerChange(name, kind, FUSED, f"{part} of the normalization")
            self._report.changes.append(change)
        if decision.few:
            self._few.append((scope + layer.name, decision.few))
        addition, activation = (
            None if operation is None else self._network.path(operation)
            for operation in (fusion.addition, fusion.activation_operation)
        )
        self._change(
            *(layer, path, functools.partial(decision.make, fusion.activation)),
            addition=addition,
            norm_input=fusion.norm_input,
            activation=activation,
        )

    def _change(self, layer, path, make, **fusion):
        with rematerialized_like(layer):
            new = make()
        self.changes.append(Change(path, new, type(layer).__name__, Build.of(layer), **fusion))

    def _fusion(self, layer):
        fused = self._options.fuse and self._options.norm is not None
        if not fused or self._holders[id(layer)] > 1:
            return Fusion()
        fusion = find_fusion(self._network, layer, self._outputs, self._taken)
        self._taken.add(id(fusion.addition))
        return fusion

    def _kernel(self, layer, path, scope, reason):
        decision = rules.kernel(layer, self._options, reason)
        if decision.make is None:
            self._note(layer, scope, KEPT, decision)
            return
        self._note(layer, scope, REPLACED, decision)
        self._change(layer, path, decision.make)

    def _counts(self, norm) -> bool:
        return rules.counts(norm, self._options)

    def _is_masked(self, layer) -> bool:
        inputs = [tensor for node in self._network.calls(layer) for tensor in node.input_tensors]
        return any(get_keras_mask(tensor) is not None for tensor in inputs)

    # The report

    def _note(self, layer, scope, action, decision):
        kind = rules.describe(layer)
        change = LayerChange(scope + layer.name, kind, action, decision.result, decision.reason)
        self._report.changes.append(change)

    def _note_unreached(self):
        for path, layer in self._found:
            unreached = [("", layer)] if TRACKED in path else captured(layer)
            for name, held in unreached:
                if id(held) not in self._seen and rules.concerns(held, self._options):
                    self._seen.add(id(held))
                    scope = f"{layer.name}.{name}/" if name else ""
                    self._note(held, scope, KEPT, rules.Decision(reason=_UNREACHED))

    def _note_few_numbers(self):
        if self._few:
            name, numbers = min(self._few, key=lambda norm: norm[1])
            self._report.notes.append(
                f"groups of fewer than {rules.FEWEST_NUMBERS} numbers, whose statistics are "
                f"noise, in {len(self._few)} of the normalizations at this input size ({name}: "
                f"{numbers}): take fewer groups (`groups`), more channels per group "
                "(`group_size`) or larger inputs"
            )

    def _note_untracked(self, model):
        tracked = {id(layer) for layer in model._flatten_layers()}
        names = [
            dotted(path)
            for path, layer in self._found
            if id(layer) not in tracked and layer.weights
        ]
        if names:
            self._report.notes.append(
                f"Keras neither trains nor saves what only plain Python objects hold: {names[0]}"
                + (f" and {len(names) - 1} more" if names[1:] else "")
            )


def _outputs_of(layer) -> int:
    return 1 if functional(layer) is None else len(functional(layer).outputs)


def _holders(found) -> dict[int, int]:
    """Returns, by the id of a layer, how many models and layers of layers call or hold it."""
    held = collections.Counter()
    for _, holder in found:
        held.update({id(child) for _, child in children(holder)})
    return held
