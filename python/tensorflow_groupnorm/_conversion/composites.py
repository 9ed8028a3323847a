"""The graphs of layers with a `call` of their own, from symbolic calls."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from .._keras import Functional, Node
from .walk import functional, of_keras


class Composites:
    """Traces the calls of layers. A context manager that undoes the traces when it exits.

    Args:
        layers: all layers of the model.
    """

    def __init__(self, layers: Iterable[keras.Layer]) -> None:
        self._before = [
            (layer, len(layer._inbound_nodes), len(layer._outbound_nodes), layer._called)
            for layer in layers
        ]
        self._graphs: dict[int, Functional | None] = {}

    def __enter__(self) -> Composites:
        return self

    def __exit__(self, *exception: object) -> None:
        for layer, inbound, outbound, called in self._before:
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]
            layer._called = called

    def graph(self, layer: keras.Layer, calls: Sequence[Node]) -> Functional | None:
        """Returns the graph of a layer that is made of layers, or None if it cannot be traced.

        Args:
            layer: the layer.
            calls: the nodes at which it is called. If empty, the shapes that it was built for
                determine the inputs.
        """
        if functional(layer) is not None:
            return functional(layer)
        if id(layer) not in self._graphs:
            self._graphs[id(layer)] = self._follow(layer, calls) if _is_composite(layer) else None
        return self._graphs[id(layer)]

    def _follow(self, layer: keras.Layer, calls: Sequence[Node]) -> Functional | None:
        try:
            arguments = calls and calls[0].arguments
            args, kwargs = (
                inputs_like(arguments.args, arguments.kwargs)
                if arguments
                else inputs_of_build(layer)
            )
            # The scope keeps assignments in the call from reaching the model.
            with keras.StatelessScope(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs = layer.call(*args, **kwargs)
            inputs = [x for x in keras.tree.flatten((args, kwargs)) if _is_symbolic(x)]
            outputs = [x for x in keras.tree.flatten(outputs) if _is_symbolic(x)]
            return Functional(inputs, outputs)
        except Exception:
            # Custom code may fail on symbolic tensors in any way.
            return None


def _is_composite(layer: keras.Layer) -> bool:
    if of_keras(type(layer)) or not layer._layers:
        return False
    # The trace would build layers that are not built yet.
    return all(inner.built for inner in layer._flatten_layers())


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def inputs_like(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Returns the arguments of a call with new inputs of a graph in place of symbolic tensors."""
    return keras.tree.map_structure(_input_like, (args, kwargs))


def inputs_of_build(layer: keras.Layer) -> tuple[Any, Any]:
    """Returns the arguments of a call with the shapes that a layer was built for."""
    build_config = layer.get_build_config() or {}
    if "input_shape" in build_config:
        return (_inputs_of(build_config["input_shape"], layer),), {}
    shapes = {key.removesuffix("_shape"): s for key, s in build_config["shapes_dict"].items()}
    return (), {key: _inputs_of(shape, layer) for key, shape in shapes.items()}


def _inputs_of(shape: Any, layer: keras.Layer, name: str | None = None) -> Any:
    if isinstance(shape, (tuple, list)) and all(s is None or isinstance(s, int) for s in shape):
        return keras.Input(batch_shape=tuple(shape), dtype=layer.input_dtype, name=name)
    if isinstance(shape, dict):
        return {key: _inputs_of(value, layer, key) for key, value in shape.items()}
    return [_inputs_of(value, layer) for value in shape]


def _input_like(value: Any) -> Any:
    if not _is_symbolic(value):
        return value
    return keras.Input(batch_shape=value.shape, dtype=value.dtype)
