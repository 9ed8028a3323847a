"""Saves and loads models with a graph whose constructors cannot make them again.

Such a functional or `Sequential` model keeps its class and is saved as its graph. Loading makes the
graph and gives it the class without calling the constructor.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from .._keras import Functional, find_class, make_functional, register
from .derived import Derived, derived, own_class
from .walk import attributes

_PLAIN = (bool, int, float, str, type(None))


def mark(model: keras.Model, kind: type) -> None:
    """Gives a model a class derived from `kind` that saves it as its graph."""
    make_functional(kind)
    model.__class__ = derived(Rebuilt, kind)


@register(name="Rebuilt")
class Rebuilt(Derived):
    """The first base class of the class of a rebuilt model; registered for serialization."""

    def get_config(self) -> dict[str, Any]:
        """Returns the class, the graph and the attributes that are plain values or layers."""
        kind = own_class(self)
        with _as_plain(self):
            graph = keras.saving.serialize_keras_object(self)
        graph.pop("compile_config", None)
        values = {name: _to_config(value, self) for name, value in attributes(self).items()}
        return {
            "name": self.name,
            "class": {
                "module": kind.__module__,
                "class_name": kind.__name__,
                "registered_name": keras.saving.get_registered_name(kind),
            },
            "graph": graph,
            "attributes": {name: value for name, value in values.items() if value is not None},
        }

    @staticmethod
    def from_config(
        config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> keras.Model:
        """Makes the graph and gives it the class, or warns that the class is not registered."""
        graph = dict(config["graph"])
        model = keras.saving.deserialize_keras_object(graph, custom_objects=custom_objects)
        kind = find_class(config["class"], custom_objects)
        if kind is None:
            warnings.warn(
                f"{config['name']} is loaded as a plain {graph['class_name']} model: its class "
                f"{config['class']['class_name']} is not registered. Import the module that "
                "registers it, or pass it in `custom_objects`.",
                stacklevel=2,
            )
            return model
        for name, value in config["attributes"].items():
            setattr(model, name, _from_config(value, model))
        mark(model, kind)
        return model

    def not_saved(self) -> list[str]:
        """Returns the names of the attributes that are neither plain values nor layers."""
        values = attributes(self).items()
        return sorted(name for name, value in values if _to_config(value, self) is None)


@contextlib.contextmanager
def _as_plain(model: keras.Model) -> Iterator[None]:
    own = type(model)
    model.__class__ = keras.Sequential if isinstance(model, keras.Sequential) else Functional
    try:
        yield
    finally:
        model.__class__ = own


def _to_config(value: Any, model: keras.Model) -> dict[str, Any] | None:
    if isinstance(value, keras.Layer):
        places = [i for i, layer in enumerate(model.layers) if layer is value]
        return {"layer": places[0]} if places else None
    return {"value": value} if _is_plain(value) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _from_config(entry: dict[str, Any], model: keras.Model) -> Any:
    return model.layers[entry["layer"]] if "layer" in entry else entry["value"]
