"""Saves and loads converted models and layers of the user's own classes.

Their own config does not describe the layers that were replaced inside. A converted layer gets a
class derived from its own, whose config holds the original config and the changes. Loading makes
the original from its config and applies the changes again.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from .._keras import register
from . import edit
from .change import Build, Change, Pair
from .derived import Derived, derived, own_class
from .walk import Path, at, walk


@dataclasses.dataclass(frozen=True)
class Conversion:
    """How a layer was converted.

    Attributes:
        original: the serialized layer before the conversion, or the error that serializing raised.
        changes: the changes, with paths from the layer.
        pairs: what is put together after the changes, with paths from the layer.
        builds: how the layers that hold the replaced ones were built, by their paths, outer layers
            first.
    """

    original: dict[str, Any] | Exception
    changes: list[Change]
    pairs: list[Pair]
    builds: dict[Path, Build]


def describe(
    layer: keras.Layer, changes: Sequence[Change] = (), pairs: Sequence[Pair] = ()
) -> Conversion:
    """Returns the record of a conversion that is about to happen.

    Args:
        layer: the layer before it is changed.
        changes: the changes, with paths from the layer.
        pairs: what is put together after the changes, with paths from the layer.
    """
    try:
        original = keras.saving.serialize_keras_object(layer)
        original.pop("compile_config", None)
        original.pop("build_config", None)
    except Exception as error:
        original = error
    paths = [change.path for change in changes] + [pair.path for pair in pairs]
    holders = {path[:i] for path in paths for i in range(len(path))}
    layers = {path: at(layer, path) for path in sorted(holders, key=len)}
    builds = {p: Build.of(held) for p, held in layers.items() if isinstance(held, keras.Layer)}
    return Conversion(original, list(changes), list(pairs), builds)


def mark(layer: keras.Layer, conversion: Conversion) -> None:
    """Gives a changed layer a class that saves and loads it with the changes."""
    kind = own_class(layer) if isinstance(layer, Converted) else type(layer)
    layer.__class__ = derived(Converted, kind)
    object.__setattr__(layer, "_conversion", conversion)


@register(name="Converted")
class Converted(Derived):
    """The first base class of the class of a converted layer; registered for serialization."""

    _conversion: Conversion

    def get_config(self) -> dict[str, Any]:
        """Returns the config of the original, the changes and the paths of frozen layers.

        Raises:
            NotImplementedError: if the original could not be serialized.
        """
        conversion = self._conversion
        if isinstance(conversion.original, Exception):
            raise NotImplementedError(
                f"The {type(self).__name__} {self.name!r} was converted and cannot be saved, "
                f"because the original cannot be saved either: {conversion.original}"
            ) from conversion.original
        return {
            "name": self.name,
            "original": copy.deepcopy(conversion.original),
            "builds": [
                {"path": list(path), **dataclasses.asdict(build)}
                for path, build in conversion.builds.items()
            ],
            "changes": [_to_config(change) for change in conversion.changes],
            "pairs": [dataclasses.asdict(pair) for pair in conversion.pairs],
            "frozen": [list(path) for path, layer in walk(self) if not layer.trainable],
        }

    @staticmethod
    def from_config(
        config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> keras.Layer:
        """Makes the original from its config and applies the changes.

        Raises:
            ValueError: if the original does not contain the layers that were replaced.
        """
        serialized = config["original"]
        layer = keras.saving.deserialize_keras_object(serialized, custom_objects=custom_objects)
        builds = {tuple(entry["path"]): _build(entry) for entry in config["builds"]}
        changes = [_from_config(entry, custom_objects) for entry in config["changes"]]
        # Version 0.1.0 wrote no pairs.
        pairs = [_pair(entry) for entry in config.get("pairs", ())]
        try:
            for path, build in builds.items():
                build.apply(at(layer, path))
            for change, entry in zip(changes, config["changes"], strict=True):
                _check_class(type(at(layer, change.path)), entry["replaces"])
            conversion = Conversion(serialized, changes, pairs, builds)
            edit.apply(layer, changes)
            edit.pair(layer, pairs)
        except LookupError as error:
            raise ValueError(
                f"The {serialized['class_name']} {config['name']!r} was converted, and its class "
                f"makes different layers now than it did then: {error}"
            ) from error
        mark(layer, conversion)
        layer.name = config["name"]
        frozen = {tuple(path) for path in config["frozen"]}
        for path, inside in list(walk(layer)):
            inside.trainable = path not in frozen
        return layer


def _to_config(change: Change) -> dict[str, Any]:
    layer = keras.saving.serialize_keras_object(change.layer)
    layer.pop("build_config", None)
    return {
        "path": list(change.path),
        "replaces": change.replaces,
        "layer": layer,
        "build": dataclasses.asdict(change.build),
        "addition": change.addition and list(change.addition),
        "norm_input": change.norm_input,
        "activation": change.activation and list(change.activation),
    }


def _from_config(entry: dict[str, Any], custom_objects: dict[str, Any] | None) -> Change:
    return Change(
        path=tuple(entry["path"]),
        layer=keras.saving.deserialize_keras_object(entry["layer"], custom_objects=custom_objects),
        replaces=entry["replaces"],
        build=_build(entry["build"]),
        addition=entry["addition"] and tuple(entry["addition"]),
        norm_input=entry["norm_input"],
        activation=entry["activation"] and tuple(entry["activation"]),
    )


def _check_class(found: type, expected: str) -> None:
    # Version 0.1.0 wrote the name of the stock class for a standardized layer.
    if expected not in (found.__name__, found.__dict__.get("_weights_name")):
        raise LookupError(f"expected a {expected} there, found a {found.__name__}")


def _pair(entry: dict[str, Any]) -> Pair:
    readers = tuple(tuple(tuple(path) for path in reader) for reader in entry["readers"])
    return Pair(tuple(entry["path"]), readers)


def _build(entry: dict[str, Any]) -> Build:
    return Build(_shapes(entry["config"]), entry["scope"])


def _shapes(build_config: Any) -> Any:
    """Returns a build config with tuples for shapes, which JSON stores as lists."""
    if isinstance(build_config, dict):
        return {key: _shapes(value) for key, value in build_config.items()}
    if isinstance(build_config, list) and all(
        item is None or isinstance(item, int) for item in build_config
    ):
        return tuple(build_config)
    return build_config
