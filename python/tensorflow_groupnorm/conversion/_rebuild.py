"""Makes the new model, layer by layer, and fills it with the weights of the old one."""

from __future__ import annotations

import collections
import contextlib
import warnings

import keras
from keras.src.models.functional import functional_like_constructor
from keras.src.saving.serialization_lib import SafeModeScope

from . import _arguments, _fusion, _rules, _state
from ._graph import AT_OUTPUT, BEFORE_KERNEL, NORMALIZATIONS, Graph, functional
from ._report import FUSED, KEPT, REPLACED, ConversionReport, LayerChange

_OPAQUE = (keras.layers.SpectralNormalization,)


class Rebuilder:
    """Converts one model; a layer that is shared is converted once.

    Args:
        options: what the user asked for.
        report: is filled with what was done.
    """

    def __init__(self, options: _rules.Options, report: ConversionReport):
        self._options = options
        self._report = report
        self._made = {}  # By the id of an operation, what takes its place.
        self._copies = []  # (old, new, function that copies the state), inner layers first.
        self._shared = set()

    def convert(self, model: keras.Model) -> keras.Model:
        """Returns the converted model."""
        self._shared = _in_several_places(model)
        # The configs come from objects of this process: a lambda in them is no risk.
        with SafeModeScope(False), _known_by_name(model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
            converted = self._layer(model, "", None)
        if not converted.built:
            converted.build_from_config(model.get_build_config())
        for old, new, copy in self._copies:
            copy(old, new)
        for old, new, _ in reversed(self._copies):
            new.trainable = old.trainable
        # Last, for an optimizer goes by what is trainable.
        for old, new, _ in self._copies:
            if isinstance(old, keras.Model) and old.compiled:
                self._compile(old, new)
        return converted

    def _compile(self, old, new):
        try:
            _arguments.compile_like(old, new)
        except _arguments.NotCopiedError as error:
            self._report.notes.append(f"{old.name} is not compiled: {error}")

    def _layer(self, layer, scope: str, reasons: list[str | None] | None):
        """Returns the layer or model that takes the place of one.

        Args:
            layer: the layer or model.
            scope: the names of what it is inside, for the report.
            reasons: for each of its outputs, why no normalization follows, or None if one does;
                None for the model that is converted.
        """
        if id(layer) not in self._made:
            self._made[id(layer)] = self._new_layer(layer, scope, reasons)
        return self._made[id(layer)]

    def _new_layer(self, layer, scope, reasons):
        inside = f"{scope}{layer.name}/" if reasons is not None else ""
        if functional(layer) is not None:
            graph = Graph(functional(layer), reasons)
            build = self._sequential if isinstance(layer, keras.Sequential) else self._functional
            new = build(layer, graph, inside)
            self._copies.append((layer, new, lambda old, new: None))
            return new
        reason = AT_OUTPUT if reasons is None else next(filter(None, reasons), None)
        if _rules.concerns(layer, self._options):
            if isinstance(layer, NORMALIZATIONS):
                return self._normalization(layer, scope)
            return self._kernel(layer, scope, reason)
        if _state.children(layer) and not isinstance(layer, _OPAQUE):
            if any(_rules.concerns(child, self._options) for child in _descendants(layer)):
                return self._composite(layer, inside, reason)
        return self._copy(layer)

    def _copy(self, layer):
        new = _from_config(layer)
        if isinstance(layer, keras.Layer):
            self._copies.append((layer, new, _state.copy_all))
        return new

    # Layers that concern the conversion

    def _normalization(self, layer, scope, fusion=None):
        fusion = fusion or _fusion.Fusion()
        decision = _rules.normalization(layer, self._options)
        if decision.make is None:
            self._note(layer, scope, KEPT, decision)
            return self._copy(layer)
        new = decision.make(fusion.activation)
        self._note(layer, scope, REPLACED, decision)
        for name in decision.drops:
            self._report.dropped[name] = self._report.dropped.get(name, 0) + 1
        for operation in fusion.absorbed:
            result = f"{'residual' if operation is fusion.addition else fusion.activation} of the "
            change = LayerChange(
                scope + operation.name, type(operation).__name__, FUSED, result + "normalization"
            )
            self._report.changes.append(change)
        self._copies.append((layer, new, _state.copy_norm))
        return new

    def _kernel(self, layer, scope, reason):
        decision = _rules.kernel(layer, self._options, reason)
        if decision.make is None:
            self._note(layer, scope, KEPT, decision)
            return self._copy(layer)
        new = decision.make()
        self._note(layer, scope, REPLACED, decision)
        self._copies.append((layer, new, _state.copy_kernels))
        return new

    def _note(self, layer, scope, action, decision):
        kind = _rules.describe(layer)
        change = LayerChange(scope + layer.name, kind, action, decision.result, decision.reason)
        self._report.changes.append(change)

    # Layers and models made of layers

    def _functional(self, model, graph, scope):
        fusions = self._fusions(graph)
        joined = {id(f.addition): (norm, f) for norm, f in fusions if f.addition is not None}
        deferred = {id(norm) for norm, _ in joined.values()}
        absorbed = {id(f.activation_operation) for _, f in fusions if f.activation}
        fusion_of = {id(norm): fusion for norm, fusion in fusions}

        def clone(operation):
            if id(operation) in deferred or id(operation) in absorbed:
                return _first_argument
            if id(operation) in joined:
                norm, fusion = joined[id(operation)]
                return _joined(self._normalization(norm, scope, fusion), fusion.norm_input)
            if id(operation) in fusion_of:
                fusion = fusion_of[id(operation)]
                return _called_as_normalization(self._normalization(operation, scope, fusion))
            new = self._layer(operation, scope, _reasons(graph, operation))
            replaced = isinstance(operation, NORMALIZATIONS) and type(new) is not type(operation)
            return _called_as_normalization(new) if replaced else new

        inputs = keras.tree.map_structure(_input_like, model.input)
        if not functional_like_constructor(type(model)):
            reason = "its constructor does not take inputs and outputs, as a copy needs"
            change = LayerChange(
                scope + model.name, type(model).__name__, REPLACED, "Functional", reason
            )
            self._report.changes.append(change)
        with _taken_for_not_compiled(model):
            return keras.models.clone_model(model, inputs, clone_function=clone)

    def _sequential(self, model, graph, scope):
        fusions = {id(norm): fusion for norm, fusion in self._fusions(graph)}
        absorbed = {id(operation) for f in fusions.values() for operation in f.absorbed}
        layers = [_input_like(graph.model.inputs[0])]
        for layer in model.layers:
            if id(layer) in absorbed:
                continue
            if id(layer) in fusions:
                layers.append(self._normalization(layer, scope, fusions[id(layer)]))
            else:
                layers.append(self._layer(layer, scope, _reasons(graph, layer)))
        return keras.Sequential(layers, name=model.name)

    def _fusions(self, graph):
        """Returns `(norm, fusion)` for each normalization of a graph that takes something in."""
        fusions = []
        taken = set()
        if not self._options.fuse or self._options.norm is None:
            return fusions
        for layer in graph.model.layers:
            if not isinstance(layer, NORMALIZATIONS) or id(layer) in self._shared:
                continue
            if _rules.normalization(layer, self._options).make is None:
                continue
            fusion = _fusion.find(graph, layer, taken)
            taken.add(id(fusion.addition))
            if fusion.absorbed:
                fusions.append((layer, fusion))
        return fusions

    def _composite(self, layer, scope, reason):
        """Converts a layer that calls other layers in code of its own."""
        new = _from_config(layer)
        reachable = _state.children(new)
        replacements = {}
        new.name = layer.name  # Not every config has it.
        inside = _descendants(layer)
        if any(isinstance(child, NORMALIZATIONS) for child in inside):
            reason = _rules.ASSUMED
        elif sum(_rules.has_own_kernel(child) for child in inside) > 1:
            reason = BEFORE_KERNEL
        for path, child in _state.children(layer).items():
            if path in reachable:
                outputs = len(functional(child).outputs) if functional(child) is not None else 1
                replacements[path] = self._layer(child, scope, [reason] * outputs)
            elif _rules.concerns(child, self._options):
                decision = _rules.Decision(reason="it is made in build(), out of reach")
                self._note(child, scope, KEPT, decision)
        _state.set_children(new, replacements)
        self._copies.append((layer, new, lambda old, new: _state.copy_rest(old, new, replacements)))
        return new


def _descendants(layer) -> list[keras.Layer]:
    """Returns the layers inside a layer at any depth, each once."""
    found = {}
    for child in _state.children(layer).values():
        for inner in [child, *_descendants(child)]:
            found[id(inner)] = inner
    return list(found.values())


def _known_by_name(model):
    """Returns a scope in which a layer's config may hold layers and functions of the user's own."""
    layers = [model, *model._flatten_layers()]
    values = [value for layer in layers for value in vars(layer).values()]
    return keras.saving.custom_object_scope(_arguments.own_objects(layers + values))


def _from_config(layer):
    if type(layer) is keras.layers.Lambda:
        return _copy_lambda(layer)
    try:
        return type(layer).from_config(_arguments.config_of(layer))
    except (NotImplementedError, TypeError) as error:
        said = _arguments.first_paragraph(error)
        raise ValueError(
            f"The {type(layer).__name__} {layer.name!r} cannot be copied: its `get_config` must "
            f"return the arguments of its `__init__`. Keras says: {said}"
        ) from error


def _copy_lambda(layer):
    # Its config has the code of a lambda without the globals that the code needs.
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )


@contextlib.contextmanager
def _taken_for_not_compiled(model):
    """Keeps Keras from compiling a clone, which it does by its config; see `compile_like`."""
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def _in_several_places(model) -> set[int]:
    """Returns the ids of the layers that more than one model or layer holds."""
    holders = {}
    pending = [model]
    while pending:
        holder = pending.pop()
        if id(holder) not in holders:
            inner = functional(holder)
            holders[id(holder)] = holder._layers if inner is None else inner.layers
            pending += holders[id(holder)]
    held = collections.Counter(id(layer) for layers in holders.values() for layer in layers)
    return {key for key, count in held.items() if count > 1}


def _reasons(graph, operation):
    """Returns, for each output of an operation, why no normalization follows one of its calls."""
    calls = [graph.not_normalized_outputs(node) for node in graph.calls(operation)]
    return [next(filter(None, reasons), None) for reasons in zip(*calls, strict=True)]


def _input_like(tensor):
    operation = tensor._keras_history.operation
    if isinstance(operation, keras.layers.InputLayer):
        return type(operation).from_config(operation.get_config()).output
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _given(args, kwargs):
    """Returns the first argument of a call; Keras' layers name it `inputs`."""
    return args[0] if args else kwargs["inputs"]


def _first_argument(*args, **kwargs):
    """Stands for an operation whose work a fused normalization does."""
    return _given(args, kwargs)


def _called_as_normalization(layer):
    """BatchNormalization may be called with `training`, which no other normalization needs."""

    def call(*args, mask=None, **kwargs):
        x = _given(args, kwargs)
        return layer(x) if mask is None else layer(x, mask=mask)

    return call


def _joined(layer, norm_input):
    """Stands for an addition: the normalization gets its own input and what was added to it."""

    def call(*args, **kwargs):
        # `Add` takes a list, `keras.ops.add` two tensors.
        x, y = args if len(args) == 2 else _given(args, kwargs)
        return layer(x, residual=y) if norm_input == 0 else layer(y, residual=x)

    return call
