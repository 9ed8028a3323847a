"""Which normalizations of a model a runtime executes as one node, by the names of the layers."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import keras

from ..layers import GroupNormalization
from .onnx import Normalizations


@dataclasses.dataclass(frozen=True)
class Account:
    """What became of the normalizations of a model.

    Attributes:
        fused: the layers of those that are one node, an entry for each call.
        unfused: a dict from the other layers to the reasons.
        executed: a dict from the types of the nodes that the runtime executes to their numbers, in
            decreasing order.
    """

    fused: tuple[str, ...]
    unfused: dict[str, str]
    executed: dict[str, int]


def account(model: keras.Model, found: Normalizations) -> Account:
    """Returns which normalizations of a model the nodes that are executed contain.

    ONNX Runtime has a kernel of InstanceNormalization, which must be in the graph that it executes.
    It expands GroupNormalization, for the kernels of other runtimes.

    Args:
        model: the model.
        found: what was written and is executed.
    """
    executed = set(found.executed)
    layers = {layer.name for layer in model._flatten_layers()} - {model.name}
    fused, unfused = [], {}
    for op, (node, kind) in found.written.items():
        layer = _layer(op, layers)
        if kind != found.kind:
            unfused[layer] = f"it became {kind}, because of its dtype or unknown channels"
        elif kind == "InstanceNormalization" and (node, kind) not in executed:
            unfused[layer] = f"ONNX Runtime executes no {kind} of its name"
        else:
            fused.append(layer)
    for scope in found.stock:
        unfused[_layer(scope, layers)] = "it has a mask, or was written in stock ops"
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.GroupNormalization) and not isinstance(
            layer, GroupNormalization
        ):
            unfused[layer.name] = "it is a layer of Keras, which tensorflow_groupnorm.convert fuses"
    counts = Counter(kind for _, kind in found.executed)
    return Account(tuple(fused), unfused, dict(counts.most_common()))


def _layer(op: str, layers: set[str]) -> str:
    """Returns the path of layers to an op, given its name in a graph."""
    path = []
    for scope in op.split("/"):
        # TensorFlow numbers a scope that is entered again.
        name = scope if scope in layers else re.sub(r"_\d+$", "", scope)
        if name in layers:
            path.append(name)
    return "/".join(path) or op
