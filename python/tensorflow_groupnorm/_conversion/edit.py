"""Replaces layers in the graphs, attributes and lists of a model."""

from __future__ import annotations

from typing import Any

import keras

from .._keras import Node, refresh_graph, replace_tracked
from .change import Change
from .network import Network
from .walk import at, attributes, functional, items, walk


def apply(root: keras.Layer, changes: list[Change]) -> None:
    """Changes a model or layer in place.

    Args:
        root: the model or layer. The layers to replace are built.
        changes: the changes, with paths from `root`.

    Raises:
        LookupError: if there is nothing at a path.
    """
    found = list(walk(root))
    network = Network(found)
    holders = [layer for _, layer in found]
    replaced = []
    absorbed: set[int] = set()
    for change in changes:
        old = at(root, change.path)
        operations = [
            None if path is None else at(root, path)
            for path in (change.addition, change.activation)
        ]
        absorbed |= {id(operation) for operation in operations if operation is not None}
        replaced.append((old, change, operations))
    for old, change, (addition, activation) in replaced:
        new = change.layer
        # A number that Keras gives to a new layer may be that of a layer that stays.
        new.name = old.name
        change.build.apply(new)
        if addition is None and activation is None:
            for node in list(old._inbound_nodes):
                _call(new, _arguments(node, old, new), node)
        else:
            _call_fused(network, change, old, addition, activation)
    by_id = {id(old): change.layer for old, change, _ in replaced}
    for holder in holders:
        _substitute(holder, by_id)
        if isinstance(holder, keras.Sequential):
            kept = [layer for layer in holder._layers if id(layer) not in absorbed]
            _set_layers(holder, [by_id.get(id(layer), layer) for layer in kept])
    for holder in holders:
        if functional(holder) is not None:
            refresh_graph(functional(holder))


def _arguments(
    node: Node, old: keras.Layer, new: keras.Layer
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of a call, for the replacement of the layer that is called."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    if not isinstance(old, keras.layers.BatchNormalization) or type(old) is type(new):
        return args, kwargs
    # No other normalization takes `training`.
    given = dict(zip(("inputs", "training", "mask"), args, strict=False)) | kwargs
    inputs = given.pop("inputs")
    given.pop("training", None)
    return (inputs,), given


def _call_fused(
    network: Network, change: Change, old: keras.Layer, addition: Any, activation: Any
) -> None:
    # Only `network` knows the call that counts: whenever a Sequential is rebuilt, as by `add`, it
    # leaves calls behind that belong to no graph.
    (node,) = network.calls(old)
    args, kwargs = _arguments(node, old, change.layer)
    kwargs, last = dict(kwargs), node
    if addition is not None:
        (last,) = network.calls(addition)
        kwargs["residual"] = last.input_tensors[1 - change.norm_input]
    if activation is not None:
        (last,) = network.calls(activation)
    _call(change.layer, (args, kwargs), last)


def _call(
    layer: keras.Layer, arguments: tuple[tuple[Any, ...], dict[str, Any]], node: Node
) -> None:
    """Makes the outputs of a call those of a call of another layer. Its readers do not change."""
    args, kwargs = arguments
    for tensor in node.arguments.keras_tensors:
        producer = tensor._keras_history.operation
        if producer is not None and node in producer._outbound_nodes:
            producer._outbound_nodes.remove(node)
    Node(layer, args, kwargs, node.outputs)
    readers = (n for n in node.operation._outbound_nodes if n not in layer._outbound_nodes)
    layer._outbound_nodes.extend(readers)


def _substitute(holder: keras.Layer, by_id: dict[int, keras.Layer]) -> None:
    """Replaces layers, given by their ids, in the attributes of a layer and inside of those."""
    seen: set[int] = set()
    for old, new in [(child, by_id[id(child)]) for child in holder._layers if id(child) in by_id]:
        replace_tracked(holder, old, new)
    for name, value in attributes(holder).items():
        new = _substituted(value, by_id, seen)
        if new is not value:
            setattr(holder, name, new)


def _substituted(value: Any, by_id: dict[int, keras.Layer], seen: set[int]) -> Any:
    if isinstance(value, keras.Layer):
        return by_id.get(id(value), value)
    if id(value) in seen:
        return value
    seen.add(id(value))
    held = [(key, item, _substituted(item, by_id, seen)) for key, item in items(value)]
    new: dict[Any, Any] = {key: item for key, before, item in held if item is not before}
    if not new:
        return value
    if isinstance(value, tuple):
        values = [new.get(i, item) for i, item in enumerate(value)]
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
    for key, item in new.items():
        if isinstance(value, list):
            list.__setitem__(value, key, item)
        elif isinstance(value, dict):
            dict.__setitem__(value, key, item)
        else:
            setattr(value, key, item)
    return value


def _set_layers(model: keras.Sequential, layers: list[keras.Layer]) -> None:
    if [*map(id, layers)] == [*map(id, model._layers)]:
        return
    for layer in list(model._layers):
        model._tracker.untrack(layer)
    model._layers = layers
