"""The arguments that layers were made with and models were compiled with.

The user's own functions and objects are handed on as they are. Keras' configs hold only their
names, which resolve if they are registered, or the code of lambdas without its globals.
"""

from __future__ import annotations

import collections
import types
from collections.abc import Iterable
from typing import Any

import keras

from .walk import of_keras

#: What a layer may take as an argument besides names and other layers. None of it has state.
_ARGUMENTS = (
    *(types.FunctionType, keras.initializers.Initializer),
    *(keras.regularizers.Regularizer, keras.constraints.Constraint),
)


class NotCopiedError(ValueError):
    """An argument of `compile` cannot be copied. The message says which and why."""


def config_of(layer: keras.Layer) -> dict[str, Any]:
    """Returns the arguments of a layer, with the user's own functions and objects as they are."""
    config = layer.get_config()
    given = {key: getattr(layer, key, None) for key in config}
    return config | {
        key: value
        for key, value in given.items()
        if isinstance(value, _ARGUMENTS) and _own(_kind(value))
    }


def own_objects(values: Iterable[Any]) -> dict[str, Any]:
    """Returns, by name, functions among the values and the classes of values with a config.

    Only those that Keras cannot find by itself. In a `custom_object_scope` with them, configs can
    refer to them by name. Names that two of them share are left out.
    """
    kinds = {
        _kind(value) for value in values if _is_function(value) or hasattr(value, "get_config")
    }
    own = [kind for kind in kinds if _own(kind)]
    names = collections.Counter(kind.__name__ for kind in own)
    return {kind.__name__: kind for kind in own if names[kind.__name__] == 1}


def _is_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType)


def _kind(value: Any) -> Any:
    return value if _is_function(value) else type(value)


def _own(kind: Any) -> bool:
    """Returns whether a function or class is neither Keras' own nor registered."""
    registered = keras.saving.get_registered_name(kind) != kind.__name__
    return not registered and not of_keras(kind)


def first_paragraph(error: Exception) -> str:
    """Returns the first paragraph of a message, in one line."""
    return " ".join(str(error).strip().partition("\n\n")[0].split())


def compile_like(old: keras.Model, new: keras.Model) -> None:
    """Compiles `new` like `old`, with the same functions and a new optimizer.

    Raises:
        NotCopiedError: if an argument of `old.compile()` has state that cannot be copied.
    """
    cls = type(new)
    if cls.compile_from_config is not keras.Model.compile_from_config:
        new.compile_from_config(old.get_compile_config())
    elif cls.compile is not keras.Model.compile:
        raise NotCopiedError(f"{cls.__name__} overrides compile() but not compile_from_config()")
    else:
        new.compile(**keras.tree.map_structure(without_state, old._compile_config.config))
        if new.optimizer is not None:
            new.optimizer.build(new.trainable_variables)


def without_state(value: Any) -> Any:
    """Returns a new optimizer or metric with the same arguments; other values as they are."""
    if not isinstance(value, (keras.Optimizer, keras.Metric)):
        return value
    try:
        config = value.get_config()
        with keras.saving.custom_object_scope(own_objects(vars(value).values())):
            return type(value).from_config(config)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise NotCopiedError(
            f"the {type(value).__name__} {value.name!r} cannot be copied: {first_paragraph(error)}"
        ) from error
