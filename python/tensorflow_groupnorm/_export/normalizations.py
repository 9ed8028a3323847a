"""Which normalizations of a model are one node, by the names of the layers."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import keras

from ..layers import GroupNormalization
from .onnx import Normalizations
from .tflite import Converted


@dataclasses.dataclass(frozen=True)
class Execution:
    """What a runtime executes of an ONNX file.

    Attributes:
        runtime: its name.
        kinds: the type of each node that is executed.
        normalizations: the names of the nodes in the file that are executed as one normalization.
        hidden: the names of the nodes in the file that the runtime tells nothing about.
    """

    runtime: str
    kinds: list[str]
    normalizations: frozenset[str]
    hidden: frozenset[str] = frozenset()

    def counts(self) -> dict[str, int]:
        """Returns how many nodes of each type are executed, in decreasing order."""
        return dict(Counter(self.kinds).most_common())

    def reason(self, node: str, kind: str) -> str:
        """Returns why a node is not in `normalizations`."""
        if node in self.hidden:
            return f"it is in a loop or a branch, of which {self.runtime} tells nothing"
        return f"{self.runtime} executes no {kind} of its name"


@dataclasses.dataclass(frozen=True)
class Account:
    """What became of the normalizations of a model.

    Attributes:
        fused: the layers of those that are one node, an entry for each call.
        unfused: a dict from the other layers to the reasons.
    """

    fused: tuple[str, ...]
    unfused: dict[str, str]


def account(model: keras.Model, found: Normalizations, execution: Execution | None) -> Account:
    """Returns which normalizations of a model are nodes that its runtime has a kernel for.

    Args:
        model: the model.
        found: what was written.
        execution: what the runtime executes, which each normalization must be in; None if that is
            not known.
    """
    layers = {layer.name for layer in model._flatten_layers()} - {model.name}
    fused, unfused = [], {}
    for op, (node, kind) in found.written.items():
        layer = _layer(op, layers)
        if execution is not None and node in execution.normalizations:
            fused.append(layer)
        elif kind != found.kind:
            unfused[layer] = f"it became {kind}, because of its dtype or unknown channels"
        elif execution is None:
            fused.append(layer)
        else:
            unfused[layer] = execution.reason(node, kind)
    for scope in found.stock:
        unfused[_layer(scope, layers)] = "it has a mask, or was written in stock ops"
    return Account(tuple(fused), unfused | _of_keras(model))


def account_of_composites(model: keras.Model, found: Converted, stock: dict[str, str]) -> Account:
    """Returns which normalizations of a model are composites of a TFLite file.

    Args:
        model: the model.
        found: what was written.
        stock: a dict from the name scopes of normalizations in stock ops to the reasons.
    """
    layers = {layer.name for layer in model._flatten_layers()} - {model.name}
    fused, unfused = [], {}
    for op, has_constants in found.composites:
        layer = _layer(op, layers)
        if has_constants:
            fused.append(layer)
        else:
            unfused[layer] = "its scale or shift is computed in the graph"
    for scope, reason in stock.items():
        unfused[_layer(scope, layers)] = reason
    return Account(tuple(fused), unfused | _of_keras(model))


def _of_keras(model: keras.Model) -> dict[str, str]:
    """Returns the layers of Keras that normalize groups, and why they are not fused."""
    return {
        layer.name: "it is a layer of Keras, which tensorflow_groupnorm.convert fuses"
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.GroupNormalization)
        and not isinstance(layer, GroupNormalization)
    }


def _layer(op: str, layers: set[str]) -> str:
    """Returns the path of layers to an op, given its name in a graph."""
    path = []
    for scope in op.split("/"):
        # TensorFlow numbers a scope that is entered again. Keras enters that of a layer twice.
        name = re.sub(r"_\d+$", "", scope)
        name = name if name in layers else scope
        if name in layers:
            path.append(name)
    return "/".join(path) or op
