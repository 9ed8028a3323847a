"""Classes that are derived from the user's own, to be saved in another way."""

from __future__ import annotations

import functools

import keras

from .._keras import register


class Derived:
    """The part that such classes share; put before the class of the user's own."""

    def __reduce__(self):
        # As the file that Keras saves. No module has these classes under their names.
        _, arguments = super().__reduce__()
        return keras.Model._unpickle_model, arguments


@functools.cache
def derived(first: type[Derived], kind: type) -> type:
    """Returns the class of `first` and of `kind`, under the name of the latter.

    It is registered as `first` is, whose `from_config` loads it. `.weights.h5` files address what
    is in a list by the name of its class.
    """
    body = {"__module__": __name__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    made = type(kind)(kind.__name__, (first, kind), body)
    return register(name=first.__name__)(made)


def own_class(model: Derived) -> type:
    """Returns the class of the user's own that the class of a model is derived from."""
    return type(model).__bases__[1]
