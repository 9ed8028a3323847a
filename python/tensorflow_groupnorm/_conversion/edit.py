"""Replaces layers in the graphs, attributes and lists of a model."""

from __future__ import annotations

from typing import Any

import keras

from .._keras import Node, refresh_graph, rematerialized_like, replace_tracked
from ..layers import RecomputedNormalization
from .change import Change, Pair
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


def pair(root: keras.Layer, pairs: list[Pair]) -> None:
    """Puts normalizations and the layers that read their outputs into one layer each, in place.

    The layers stay the same objects. Where one of them produces an output of a model, an `Identity`
    of its name does so afterwards.

    Args:
        root: the model or layer.
        pairs: what to put together, with paths from `root`.

    Raises:
        LookupError: if there is nothing at a path.
    """
    found = list(walk(root))
    network = Network(found)
    at_paths = [
        (at(root, pair.path), [[at(root, path) for path in reader] for reader in pair.readers])
        for pair in pairs
    ]
    instead: dict[int, list[keras.Layer]] = {}
    for norm, readers in at_paths:
        inside = [norm, *(layer for reader in readers for layer in reader)]
        instead |= dict.fromkeys(map(id, inside), [])
        instead[id(norm)] = _put_together(network, norm, readers)
    for _, holder in found:
        if isinstance(holder, keras.Sequential):
            _set_layers(
                holder, [new for old in holder._layers for new in instead.get(id(old), [old])]
            )
    for _, holder in found:
        if functional(holder) is not None:
            refresh_graph(functional(holder))


def _put_together(
    network: Network, norm: keras.Layer, readers: list[list[keras.Layer]]
) -> list[keras.Layer]:
    """Calls a new layer in place of a normalization and its readers.

    Returns:
        The new layer, then the layers that produce outputs of models from its outputs.
    """
    node = _only_call(network, norm)
    ends = [_only_call(network, reader[-1]) if reader else node for reader in readers]
    named = [end for end in ends if network.models_with_output(end.outputs[0])]
    single = len(readers) == len(readers[0]) == 1
    with rematerialized_like(norm):
        new = RecomputedNormalization(
            norm,
            readers[0][0] if single else readers,
            name=f"{norm.name}_recomputed" if node in named else norm.name,
        )
    new.build(node.input_tensors[0].shape)
    if not any(layer.trainable for layer in (norm, *new.layers)):
        new.trainable = False
    outputs = [
        keras.KerasTensor(end.outputs[0].shape, end.outputs[0].dtype)
        if end in named
        else end.outputs[0]
        for end in ends
    ]
    _unlink(node)
    Node(new, node.arguments.args, node.arguments.kwargs, outputs)
    after = []
    for end, output in zip(ends, outputs, strict=True):
        producer = new
        if end in named:
            producer = keras.layers.Identity(name=end.operation.name, dtype=output.dtype)
            Node(producer, (output,), {}, end.outputs)
            after.append(producer)
        _take_readers(producer, end)
    for layer in new._flatten_layers(include_self=False):
        layer._inbound_nodes.clear()
        layer._outbound_nodes.clear()
    return [new, *after]


def _only_call(network: Network, layer: keras.Layer) -> Node:
    calls = network.calls(layer)
    if len(calls) != 1:
        raise LookupError(f"expected one call of {layer.name} there, found {len(calls)}")
    return calls[0]


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
    _unlink(node)
    Node(layer, args, kwargs, node.outputs)
    _take_readers(layer, node)


def _unlink(node: Node) -> None:
    """Removes a call from the readers of its inputs."""
    for tensor in node.arguments.keras_tensors:
        producer = tensor._keras_history.operation
        if producer is not None and node in producer._outbound_nodes:
            producer._outbound_nodes.remove(node)


def _take_readers(layer: keras.Layer, node: Node) -> None:
    """Makes the readers of the outputs of a call readers of a layer."""
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
