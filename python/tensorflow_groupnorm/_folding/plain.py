"""Makes stock layers, and graphs of stock layers, from those of this package."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras

from .. import layers
from .._conversion import copy
from .._conversion.arguments import config_of, first_paragraph
from .._conversion.change import Build
from .._conversion.composites import inputs_like, inputs_of_build
from .._conversion.derived import Derived, own_class
from .._conversion.network import runs_its_graph
from .._conversion.walk import Path, at, functional, of_keras, walk
from .._keras import Functional, inherit_state
from ..layers._kernel_weights import Kernel, own_kernels
from ..layers._standardized_base import Standardized
from ..layers._standardized_weights import HasStandardizedWeights
from .plain_normalization import PlainNormalization

_ARGUMENTS_OF_LORA = ("lora_rank", "lora_alpha")
_ARGUMENTS_OF_STANDARDIZATION = ("variant", "epsilon", "gain")


class NotFoldedError(ValueError):
    """A model cannot be folded. The message says which layer is in the way, and why."""


def of_this_package(layer: keras.Layer, norm: str | None) -> bool:
    """Returns whether a layer needs this package, leaving out the normalizations to keep.

    Args:
        layer: any layer.
        norm: None if `GroupNormalization` is kept.
    """
    if isinstance(layer, layers.GroupNormalization):
        return norm is not None
    return isinstance(layer, (HasStandardizedWeights, layers.RecomputedNormalization, Derived))


class Folder:
    """Makes the plain counterparts of layers, each once, and then copies the weights.

    Args:
        model: the model to fold; it is not changed.
        norm: `"keras"`, or None to keep `GroupNormalization` layers.
        blank: prepares the layers that are made.
    """

    def __init__(self, model: keras.Model, norm: str | None, blank: copy.BlankWeights) -> None:
        self._norm = norm
        self._blank = blank
        self._copier = copy.Copier(blank)
        self._made: dict[int, Any] = {}
        self._models: list[tuple[keras.Layer, keras.Layer]] = []
        self._copies: list[Callable[[], None]] = []
        self._names = {layer.name for _, layer in walk(model)}
        for _, layer in walk(model):
            graph = functional(layer)
            self._names |= {operation.name for operation in graph.operations} if graph else set()

    def layer(self, layer: keras.Operation) -> Any:
        """Returns the plain layer or operation with the same call as one with a single input."""
        step = self._step(layer)
        if isinstance(step, PlainNormalization):
            return step.alone()
        if isinstance(step, _Traced):
            return step.alone()
        if isinstance(step, _Pair):
            return self._sequence(layer.name, step.in_a_row())
        return step

    def copy_weights(self) -> None:
        """Copies weights and `trainable`. Call it once all layers have been called or built."""
        # Setting `trainable` of a model sets that of the layers in it.
        for old, new in reversed(self._models):
            inherit_state(old, new)
        for fill in self._copies:
            fill()

    def new_name(self, name: str) -> str:
        """Returns a name that no layer of the model has, made from a given one."""
        number, new = 0, name
        while new in self._names:
            number += 1
            new = f"{name}_{number}"
        self._names.add(new)
        return new

    def _step(self, layer: keras.Operation) -> Any:
        """Returns what to call in a graph instead of a layer or operation."""
        if id(layer) not in self._made:
            self._made[id(layer)] = self._new(layer)
        return self._made[id(layer)]

    def _new(self, layer: keras.Operation) -> Any:
        if not isinstance(layer, keras.Layer) or not self._needs_package(layer):
            return self._copied(layer)
        if isinstance(layer, Standardized):
            return self._stock(layer)
        if isinstance(layer, layers.WeightStandardization):
            return self._unwrapped(layer)
        if type(layer) is layers.GroupNormalization:
            return self._normalization(layer)
        if isinstance(layer, layers.RecomputedNormalization):
            return _Pair(self, layer)
        if functional(layer) is not None and runs_its_graph(layer):
            return self._graph(layer)
        if of_keras(type(layer)):
            return self._with_plain_parts(layer)
        return _Traced(self, layer)

    def _needs_package(self, layer: keras.Layer) -> bool:
        return any(of_this_package(part, self._norm) for _, part in walk(layer))

    # Layers

    def _copied(self, layer: keras.Operation) -> keras.Operation:
        new = self._copier.layer(layer)
        if isinstance(layer, keras.Layer):
            self._copies.append(lambda: _copy_parts(layer, new))
        return new

    def _stock(self, layer: Standardized) -> keras.Layer:
        _refuse_subclass(layer)
        dropped = _ARGUMENTS_OF_STANDARDIZATION + _ARGUMENTS_OF_LORA
        kind = type(layer).__bases__[-1]
        new = self._made_of(kind, _without(config_of(layer), dropped), layer.name)

        def fill() -> None:
            Build.of(layer).apply(new)
            inherit_state(layer, new)
            if layer.built:
                _copy_bias(layer, new)
                _assign_kernels(layer, own_kernels(layer), {id(layer): new})

        self._copies.append(fill)
        return new

    def _unwrapped(self, layer: layers.WeightStandardization) -> keras.Layer:
        inner = layer.layer
        adapted = {id(k.owner) for k in layer._kernels() if k.adapted} if layer.built else set()
        if adapted - {id(inner)}:
            raise NotFoldedError(
                f"{layer.name!r} cannot be folded: LoRA adapts a layer inside of its "
                f"{type(inner).__name__}."
            )
        if adapted:
            config = _without(config_of(inner), _ARGUMENTS_OF_LORA)
            new = self._made_of(type(inner), config, layer.name)
        else:
            # A copy of its own: the layer may also be called without the wrapper.
            new = copy.copy(inner, self._blank)
            new.name = layer.name

        def fill() -> None:
            Build.of(layer).apply(new)
            _copy_parts(inner, new, without=adapted)
            if not layer.trainable:
                new.trainable = False
            if not layer.built:
                return
            if adapted:
                _copy_bias(inner, new)
            owners = {id(part): at(new, path) for path, part in walk(inner)}
            _assign_kernels(layer, layer._kernels(), owners)

        self._copies.append(fill)
        return new

    def _normalization(self, layer: layers.GroupNormalization) -> PlainNormalization:
        if layer.use_mask:
            raise NotFoldedError(
                f"{layer.name!r} leaves masked positions out of its statistics (use_mask=True), "
                "which no normalization of Keras does: norm=None keeps it."
            )
        plain = PlainNormalization(layer, self.layer, self.new_name)

        def fill() -> None:
            Build.of(layer).apply(plain.normalization)
            copy.copy_state(layer, plain.normalization)
            for part in plain.parts():
                inherit_state(layer, part)

        self._copies.append(fill)
        return plain

    def _made_of(self, kind: Any, config: dict[str, Any], name: str) -> keras.Layer:
        new = kind.from_config(config)
        new.name = name
        self._blank.prepare(new)
        return new

    # Models, and layers that hold layers

    def _graph(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            rows = [row for inside in model.layers for row in self._in_a_row(inside)]
            new = keras.Sequential(
                [copy.input_like(model._functional.inputs[0]), *rows], name=model.name
            )
        else:
            new = self.graph_of(model)
        self._models.append((model, new))
        return new

    def graph_of(self, model: keras.Model, name: str | None = None) -> keras.Model:
        """Returns a functional model of the plain counterparts of the layers of a graph."""
        inputs = keras.tree.map_structure(copy.input_like, model.input)
        with copy.taken_for_not_compiled(model):
            new = keras.models.clone_model(
                model,
                inputs,
                clone_function=self._step,
                call_function=lambda step, *args, **kwargs: step(*args, **kwargs),
            )
        if isinstance(new, Derived):
            new.__class__ = own_class(new)
        if name is not None:
            new.name = name
        return new

    def _in_a_row(self, layer: keras.Layer) -> list[keras.Layer]:
        """Returns the layers that stand for one in a `Sequential`."""
        step = self._step(layer)
        return step.in_a_row() if hasattr(step, "in_a_row") else [self.layer(layer)]

    def _sequence(self, name: str, row: list[keras.Layer]) -> keras.Layer:
        return row[0] if len(row) == 1 else keras.Sequential(row, name=name)

    def _with_plain_parts(self, layer: keras.Layer) -> keras.Layer:
        """Makes a layer of Keras again, around the plain counterparts of the layers inside."""
        parts: dict[Path, tuple[keras.Layer, keras.Layer]] = {}
        for path, part in walk(layer):
            below = any(path[: len(other)] == other for other in parts)
            ours = of_this_package(part, self._norm) or functional(part) is not None
            if path and not below and ours and self._needs_package(part):
                parts[path] = part, self.layer(part)
        by_name = {old.name: new for old, new in parts.values()}
        config = _with_configs(layer.get_config(), by_name)
        new = self._made_of(type(layer), config, layer.name)

        def fill() -> None:
            for old, plain in parts.values():
                Build.of(old).apply(plain)
            Build.of(layer).apply(new)
            for path, old in walk(layer):
                if not any(path[: len(other)] == other for other in parts):
                    copy.copy_state(old, at(new, path))
            inherit_state(layer, new)
            for path, (_, plain) in parts.items():
                _copy_parts(plain, at(new, path))

        self._copies.append(fill)
        return new


class _Pair:
    """What stands in a graph for a `RecomputedNormalization`: the layers in it."""

    def __init__(self, folder: Folder, layer: layers.RecomputedNormalization) -> None:
        self._name = layer.name
        self._normalization = folder._step(layer.normalization)
        self._readers = [[folder.layer(inside) for inside in row] for row in layer._readers()]
        self._is_single = layer._is_single

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        normalized = self._normalization(*args, **kwargs)
        outputs = []
        for reader in self._readers:
            output = normalized
            for layer in reader:
                output = layer(output)
            outputs.append(output)
        return outputs[0] if self._is_single else outputs

    def in_a_row(self) -> list[keras.Layer]:
        if not self._is_single:
            raise NotFoldedError(
                f"{self._name!r} cannot be folded: it has several outputs and is not part of a "
                "functional model."
            )
        norm = self._normalization
        row = norm.in_a_row() if isinstance(norm, PlainNormalization) else [norm]
        return row + self._readers[0]


class _Traced:
    """What stands in a graph for a layer with a `call` of its own: the graph of that call."""

    def __init__(self, folder: Folder, layer: keras.Layer) -> None:
        self._folder = folder
        self._layer = layer
        self._graphs: dict[str, keras.Model] = {}
        if layer._trainable_variables or layer._non_trainable_variables:
            raise NotFoldedError(
                f"The {type(layer).__name__} {layer.name!r} cannot be folded: it holds layers of "
                "this package and has weights of its own, which a functional model cannot have."
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # The graph depends on the arguments, and on the shapes of the tensors among them.
        key = repr(keras.tree.map_structure(_described, (args, kwargs)))
        if key not in self._graphs:
            self._graphs[key] = self._trace(*inputs_like(args, kwargs))
        tensors = [x for x in keras.tree.flatten((args, kwargs)) if _is_symbolic(x)]
        return self._graphs[key](tensors[0] if len(tensors) == 1 else tensors)

    def alone(self) -> keras.Model:
        """Returns the graph for the inputs that the layer was built for."""
        args, kwargs = inputs_of_build(self._layer)
        if len(args) + len(kwargs) != 1:
            raise self._refusal("it takes several arguments")
        return self._trace(args, kwargs, structured=True)

    def _trace(self, args: Any, kwargs: Any, structured: bool = False) -> keras.Model:
        layer = self._layer
        tensors = [x for x in keras.tree.flatten((args, kwargs)) if _is_symbolic(x)]
        try:
            # The scope keeps assignments in the call from reaching the model.
            with keras.StatelessScope(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs = layer.call(*args, **kwargs)
            inputs = tensors[0] if len(tensors) == 1 else tensors
            if structured:
                inputs = [*args, *kwargs.values()][0]
            graph = Functional(inputs, outputs)
        except Exception as error:  # Custom code may fail on symbolic tensors in any way.
            raise self._refusal(first_paragraph(error) or type(error).__name__) from error
        name = layer.name if not self._graphs else self._folder.new_name(layer.name)
        return self._folder.graph_of(graph, name)

    def _refusal(self, reason: str) -> NotFoldedError:
        return NotFoldedError(
            f"The {type(self._layer).__name__} {self._layer.name!r} cannot be folded: it holds "
            f"layers of this package, and its call cannot be traced with symbolic tensors: {reason}"
        )


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _described(value: Any) -> Any:
    return (value.shape, value.dtype) if _is_symbolic(value) else value


def _refuse_subclass(layer: Standardized) -> None:
    stock = type(layer).__bases__[-1]
    if type(layer).__bases__ != (Standardized, stock) or not of_keras(stock):
        raise NotFoldedError(
            f"{layer.name!r} cannot be folded: its class is derived from a standardized layer."
        )


def _without(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in names}


def _with_configs(value: Any, by_name: dict[str, keras.Layer]) -> Any:
    """Returns a config with those of other layers in place of those of the given names."""
    if isinstance(value, dict):
        inner = value.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        if name in by_name and "class_name" in value:
            return keras.saving.serialize_keras_object(by_name[name])
        return {key: _with_configs(item, by_name) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_configs(item, by_name) for item in value)
    return value


def _copy_parts(
    old: keras.Layer, new: keras.Layer, without: set[int] | frozenset[int] = frozenset()
) -> None:
    """Copies the state of a layer and of those inside, except of some given by their ids."""
    name = new.name
    for _, part, other in copy.counterparts(old, new):
        if id(part) not in without:
            copy.copy_state(part, other)
        inherit_state(part, other)
    new.name = name  # `counterparts` names the layers as in the original.


def _copy_bias(old: keras.Layer, new: keras.Layer) -> None:
    if getattr(old, "bias", None) is not None:
        new.bias.assign(old.bias)


def _assign_kernels(
    layer: HasStandardizedWeights, kernels: list[Kernel], owners: dict[int, keras.Layer]
) -> None:
    """Assigns the standardized kernels of a layer to those of its plain counterpart."""
    for kernel in kernels:
        variable = getattr(owners[id(kernel.owner)], kernel.name)
        variable.assign(layer._standardize(kernel, variable._dtype))
