"""What layers and compiled models were made with.

Functions and objects of the user's own are taken as they are: in Keras' configs they are names,
which only registered ones answer to, and the code of lambdas, which lacks its globals.
"""

from __future__ import annotations

import collections
import types
from collections.abc import Iterable

import keras

#: What a layer may take as an argument besides names and other layers; none of it has a state.
_ARGUMENTS = (
    *(types.FunctionType, keras.initializers.Initializer),
    *(keras.regularizers.Regularizer, keras.constraints.Constraint),
)


class NotCopiedError(ValueError):
    """What a model was compiled with cannot be copied; the message says what and why."""


def config_of(layer) -> dict:
    """Returns the arguments of a layer; the user's own functions and objects are themselves."""
    config = layer.get_config()
    given = {key: getattr(layer, key, None) for key in config}
    return config | {
        key: value
        for key, value in given.items()
        if isinstance(value, _ARGUMENTS) and _own(_kind(value))
    }


def own_objects(values: Iterable) -> dict[str, object]:
    """Returns, by name, the values that are functions, and the classes of those with a config.

    Only what Keras cannot find by itself: within a `custom_object_scope` of these, configs can
    name them. A name that two of them have is left out.
    """
    kinds = {
        _kind(value) for value in values if _is_function(value) or hasattr(value, "get_config")
    }
    own = [kind for kind in kinds if _own(kind)]
    names = collections.Counter(kind.__name__ for kind in own)
    return {kind.__name__: kind for kind in own if names[kind.__name__] == 1}


def _is_function(value) -> bool:
    return isinstance(value, types.FunctionType)


def _kind(value):
    return value if _is_function(value) else type(value)


def _own(kind) -> bool:
    """Whether a function or class is neither Keras' nor registered."""
    registered = keras.saving.get_registered_name(kind) != kind.__name__
    return not registered and not f"{kind.__module__}.".startswith("keras.")


def first_paragraph(error: Exception) -> str:
    """Returns the beginning of a message, in one line."""
    return " ".join(str(error).strip().partition("\n\n")[0].split())


def compile_like(old: keras.Model, new: keras.Model):
    """Compiles a model as another one, with the same functions and a new optimizer.

    Raises:
        NotCopiedError: if what the other was compiled with has state that cannot be copied.
    """
    cls = type(new)
    if cls.compile_from_config is not keras.Model.compile_from_config:
        new.compile_from_config(old.get_compile_config())
    elif cls.compile is not keras.Model.compile:
        raise NotCopiedError(
            f"{cls.__name__}.compile() is not Keras' own and there is no compile_from_config() "
            "beside it"
        )
    else:
        new.compile(**keras.tree.map_structure(without_state, old._compile_config.config))
        if new.optimizer is not None:
            new.optimizer.build(new.trainable_variables)


def without_state(value):
    """Returns a new optimizer or metric for a given one, and anything else as it is."""
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
