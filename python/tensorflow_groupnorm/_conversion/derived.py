"""Classes derived from the user's own, to change how their instances are saved."""

from __future__ import annotations

import functools
from typing import Any

import keras

from .._keras import NamedInFiles, register


class Derived(metaclass=NamedInFiles):
    """The base of these classes, which all have the class of a layer as another one."""

    name: str

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickles the file that Keras saves: these classes are not attributes of their module.
        return keras.Model._unpickle_model, super().__reduce__()[1]


@functools.cache
def derived(first: type[Derived], kind: type) -> type:
    """Returns a class derived from `first` and `kind`, with the name of `kind`.

    It is registered under the name of `first`, whose `from_config` loads it. It keeps the name of
    `kind` because `.weights.h5` files address layers in lists by the names of their classes.
    """
    body = {"__module__": __name__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    made = _metaclass(first, kind)(kind.__name__, (first, kind), body)
    return register(name=first.__name__)(made)


def _metaclass(*classes: type) -> Any:
    """Returns the type of a class that is derived from the given ones."""
    kinds = tuple(map(type, classes))
    most = [kind for kind in kinds if all(issubclass(kind, other) for other in kinds)]
    return most[0] if most else type("Metaclass", kinds, {})


def own_class(model: Derived) -> type:
    """Returns the user's class that the class of a model is derived from."""
    return type(model).__bases__[1]
