"""Copies a model by its config, and the state of layers to those of the copy."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from .._keras import Functional, Node, SafeModeScope, functional_like_constructor, is_in_graph
from ..layers import RecomputedNormalization
from . import arguments, rebuilt, rules
from .change import Build
from .derived import own_class
from .walk import Path, at, attributes, dotted, functional, held_by, of_keras, walk

#: For each layer of a model: its path, itself and its counterpart in the copy.
Pairs = list[tuple[Path, keras.Layer, keras.Layer]]

#: What to do instead of copying, at the end of messages.
IN_PLACE = "`tfgn.convert(model, in_place=True)` changes the model itself, without a copy."


class NotCopiedError(ValueError):
    """A model or layer cannot be copied. The message says which, why and what to do."""


class BlankWeights:
    """Lets convolutions and Dense layers be built with zeros instead of random numbers.

    The weights are overwritten by those of the model; drawing them first takes a quarter of the
    time of a conversion. A context manager: when it exits, the layers have their own initializers
    again.
    """

    def __init__(self) -> None:
        self._initializers: list[tuple[keras.Layer, str, keras.initializers.Initializer]] = []

    def __enter__(self) -> BlankWeights:
        return self

    def __exit__(self, *exception: object) -> None:
        for layer, name, initializer in self._initializers:
            vars(layer)[name] = initializer

    def prepare(self, layer: keras.Layer) -> None:
        """Prepares a layer that is not built yet; ignores layers of other kinds."""
        if isinstance(layer, keras.layers.Wrapper):
            layer = layer.layer
        if not rules.has_own_kernel(layer):
            return
        for name, value in vars(layer).items():
            if isinstance(value, keras.initializers.Initializer):
                self._initializers.append((layer, name, value))
                vars(layer)[name] = keras.initializers.Zeros()


def copy(model: keras.Model, blank: BlankWeights) -> keras.Model:
    """Returns a copy of a model without its weights.

    Args:
        model: the model; it is not changed.
        blank: prepares the layers of the copy.

    Raises:
        NotCopiedError: if it cannot be made from configs.
    """
    return Copier(blank).layer(model)


def has_config_of_keras(layer: keras.Layer) -> bool:
    """Returns whether Keras' config of a layer describes the layers inside as they are."""
    kind = type(layer)
    if of_keras(kind) or isinstance(layer, (rebuilt.Rebuilt, RecomputedNormalization)):
        return True
    if isinstance(layer, Functional):
        return functional_like_constructor(kind) and kind.get_config is Functional.get_config
    return False


@contextlib.contextmanager
def own_objects_known(model: keras.Layer) -> Iterator[None]:
    """Lets configs refer to layers and functions of the user's own that are not registered."""
    layers = [layer for _, layer in walk(model)]
    values = [value for layer in layers for value in vars(layer).values()]
    # The configs come from objects of this process, so a lambda in them is no risk.
    scope = keras.saving.custom_object_scope(arguments.own_objects(layers + values))
    with SafeModeScope(False), scope, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        warnings.filterwarnings("ignore", r"`build\(\)` was called on layer")
        warnings.filterwarnings("ignore", "Model .* had a build config")
        yield


class Copier:
    """Makes copies of layers without their weights; of layers in graphs, one for each.

    Args:
        blank: prepares the layers of the copies.
    """

    def __init__(self, blank: BlankWeights) -> None:
        self._blank = blank
        self._made: dict[int, keras.Layer] = {}

    def layer(self, layer: keras.Layer) -> keras.Layer:
        """Returns the copy of a layer or operation.

        Raises:
            NotCopiedError: if it cannot be made from configs.
        """
        if id(layer) not in self._made:
            self._made[id(layer)] = self._new(layer)
        return self._made[id(layer)]

    def _new(self, layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, RecomputedNormalization):
            return self._pair(layer)
        if functional(layer) is None:
            new = _named_like(layer, from_config(layer))
            self._blank.prepare(new)
            return new
        if not isinstance(layer, rebuilt.Rebuilt):
            if has_config_of_keras(layer):
                return self._of_its_graph(layer)
            new = _by_its_constructor(layer)
            if new is not None:
                return _named_like(layer, new)
        new = self._of_its_graph(layer)
        self._copy_attributes(layer, new)
        kind = own_class(layer) if isinstance(layer, rebuilt.Rebuilt) else type(layer)
        rebuilt.mark(new, kind)
        return new

    def _pair(self, pair: RecomputedNormalization) -> RecomputedNormalization:
        # Its config may hold functions of the user's own, as those of the layers in it.
        config = keras.layers.Layer.get_config(pair)
        readers: Any = [[self.layer(layer) for layer in reader] for reader in pair._readers()]
        readers = readers[0][0] if pair._is_single else readers
        return RecomputedNormalization(self.layer(pair.normalization), readers, **config)

    def _of_its_graph(self, model: keras.Model) -> keras.Model:
        return self._sequential(model) if _is_sequential(model) else self._functional(model)

    def _copy_attributes(self, old: keras.Model, new: keras.Model) -> None:
        """Copies attributes, replacing layers and tensors of the model by those of the copy."""
        tensors = {
            id(ours): theirs
            for nodes in zip(_nodes(functional(old)), _nodes(functional(new)), strict=True)
            for ours, theirs in zip(*(node.outputs for node in nodes), strict=True)
        }

        def counterpart(value: Any) -> Any:
            if isinstance(value, keras.Layer):
                return self.layer(value)
            if isinstance(value, (keras.Variable, tf.Variable)) or any(held_by(value)):
                raise NotCopiedError(
                    f"The {type(old).__name__} {old.name!r} cannot be copied: its constructor "
                    "cannot be called with what its `get_config` returns, and it holds "
                    f"{value!r}. {IN_PLACE}"
                )
            return tensors.get(id(value), arguments.without_state(value))

        for name, value in attributes(old).items():
            setattr(new, name, keras.tree.map_structure(counterpart, value))

    def _functional(self, model: keras.Model) -> keras.Model:
        inputs = keras.tree.map_structure(input_like, model.input)
        with taken_for_not_compiled(model):
            return keras.models.clone_model(model, inputs, clone_function=self.layer)

    def _sequential(self, model: keras.Model) -> keras.Model:
        layers = [input_like(model._functional.inputs[0]), *map(self.layer, model.layers)]
        return keras.Sequential(layers, name=model.name)


def _nodes(graph: Functional) -> list[Node]:
    """Returns the calls of a graph, in an order that a copy has too."""
    return [
        node
        for operation in graph.operations
        for node in operation._inbound_nodes
        if is_in_graph(graph, node)
    ]


def _is_sequential(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.Sequential)


def _named_like(old: keras.Layer, new: keras.Layer) -> keras.Layer:
    new.name = old.name  # Not every config holds it.
    return new


def from_config(layer: keras.Layer) -> keras.Layer:
    """Returns a new layer with the same arguments."""
    if type(layer) is keras.layers.Lambda:
        return _copy_lambda(layer)
    try:
        return type(layer).from_config(arguments.config_of(layer))
    except Exception as error:
        said = arguments.first_paragraph(error) or type(error).__name__
        raise NotCopiedError(
            f"The {type(layer).__name__} {layer.name!r} cannot be copied: its `get_config` must "
            f"return the arguments of its `__init__`. {IN_PLACE} The error was: {said}"
        ) from error


def is_made_of_its_graph(model: keras.Model) -> bool:
    """Returns whether a model has a graph, and a constructor that cannot make it again."""
    if functional(model) is None or has_config_of_keras(model):
        return False
    return _by_its_constructor(model) is None


def _by_its_constructor(model: keras.Model) -> keras.Model | None:
    """Returns a copy of a model made by its constructor, or None if its graph differs."""
    try:
        new = from_config(model)
    except NotCopiedError:
        return None
    return new if functional(new) is not None and _kinds(new) == _kinds(model) else None


def _kinds(model: keras.Model) -> list[tuple[type, list[Any]]]:
    """Returns the class and the output shapes of each operation of a graph."""
    graph = functional(model)
    return (
        []
        if graph is None
        else [
            (type(operation), [x.shape for node in operation._inbound_nodes for x in node.outputs])
            for operation in graph.operations
        ]
    )


def _copy_lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    # Its config holds the code of a lambda without the globals that the code needs.
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
def taken_for_not_compiled(model: keras.Model) -> Iterator[None]:
    """Keeps Keras from compiling a clone from the config of the model; see `compile_like`."""
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Returns a new input of a graph like one of another graph."""
    operation = tensor._keras_history.operation
    if isinstance(operation, keras.layers.InputLayer):
        return type(operation).from_config(operation.get_config()).output
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


# The layers of a copy, and their state


def counterparts(model: keras.Model, new: keras.Model) -> Pairs:
    """Returns the layers of a model with those of the copy.

    Builds the layers of the copy, so that layers made in a `build` exist, and names them as in the
    model.

    Raises:
        NotCopiedError: if the copy does not contain the same layers.
    """
    pairs = []
    for path, old in walk(model):
        try:
            other = at(new, path)
        except LookupError:
            if not (old._trainable_variables or old._non_trainable_variables):
                continue  # The layers inside are copied by themselves.
            raise NotCopiedError(
                f"The model {model.name!r} cannot be copied: a copy made from its config has no "
                f"{dotted(path)}, a {type(old).__name__}. {IN_PLACE}"
            ) from None
        if type(other) is not type(old) and functional(old) is None:
            raise NotCopiedError(
                f"The model {model.name!r} cannot be copied: {dotted(path)} is a "
                f"{type(old).__name__} in the model, and a {type(other).__name__} in a copy made "
                f"from its config. {IN_PLACE}"
            )
        Build.of(old).apply(other)
        _name_like(old, other)
        pairs.append((path, old, other))
    return pairs


def differs(old: keras.Layer, new: keras.Layer) -> bool:
    """Returns whether a layer of Keras' own has other arguments than its counterpart.

    In a copy, arguments have their defaults if a config of the user's class leaves them out or if
    the user has changed them since.
    """
    if old is new or old._layers or not of_keras(type(old)):
        return False
    return _arguments_that_count(old) != _arguments_that_count(new)


def _arguments_that_count(layer: keras.Layer) -> dict[str, str] | None:
    try:
        config = layer.get_config()
    except Exception:
        return None  # A layer may have no config if that of its model does not need it.
    return {
        key: str(value)
        for key, value in config.items()
        # Weights and `trainable` are copied separately.
        if key not in ("name", "trainable", "seed", "batch_shape") and "initializer" not in key
    }


def _name_like(old: keras.Layer, new: keras.Layer) -> None:
    new.name = old.name
    graph, copied = functional(old), functional(new)
    if graph is not None and copied is not None:
        for ours, theirs in zip(graph.operations, copied.operations, strict=True):
            theirs.name = ours.name


def copy_state(old: keras.Layer, new: keras.Layer) -> None:
    """Copies the variables and assets of a layer, except those of the layers inside."""
    if not old.built or old is new:
        return
    shapes = [
        [tuple(v.shape) for v in layer._trainable_variables + layer._non_trainable_variables]
        for layer in (old, new)
    ]
    if shapes[0] != shapes[1]:
        raise NotCopiedError(
            f"The {type(old).__name__} {old.name!r} cannot be copied: its weights have the shapes "
            f"{shapes[0]} in the model, and {shapes[1]} in a copy made from its config. {IN_PLACE}"
        )
    store: dict[str, Any] = {}
    old.save_own_variables(store)
    if store:
        new.load_own_variables(store)
    for name, value in vars(old).items():
        if isinstance(value, tf.Variable):
            getattr(new, name).assign(value)
    if hasattr(old, "save_assets") and not old._layers:
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def copy_replaced(old: keras.Layer, new: keras.Layer) -> None:
    """Copies the variables of a layer, except moving statistics, to its replacement.

    The replacement of a normalization has fewer variables, that of a convolution may have a gain.
    """
    if isinstance(new, keras.layers.Wrapper):
        new = new.layer
    for variable in old.weights:
        if variable.name not in rules.MOVING_STATISTICS:
            getattr(new, variable.name).assign(variable)
