"""The layers inside a layer or model, and the paths that lead to them.

A path is a tuple of attribute names and of keys of lists and dicts: `("encoder", "operations", 3)`
is `model.encoder.operations[3]`. It leads to the counterpart in a copy of the model as well.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator

import keras

from .._keras import Functional

Path = tuple[str | int, ...]

#: The step of a path that Keras' own list of the layers inside is, for layers that are tracked
#: and yet in no attribute: those in sets, say.
TRACKED = "_layers"

#: Modules whose objects hold no layers of the user's, apart from layers themselves.
_CLOSED = (
    *("builtins", "collections", "keras", "numpy", "tensorflow", "tensorflow_groupnorm"),
    *("threading", "weakref"),
)


def functional(operation) -> Functional | None:
    """Returns the functional model that an operation is, or runs on if it is a `Sequential`."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if isinstance(operation, Functional) else None


def walk(root: keras.Layer) -> Iterator[tuple[Path, keras.Layer]]:
    """Yields the layers inside a layer at any depth with their paths, and first itself.

    Each layer comes once, after the layers that hold it: by its place in a graph rather than in an
    attribute, and by Keras' list of tracked layers only if no attribute leads to it.
    """
    seen, found = set(), []

    def visit(path, layer):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        found.append((path, layer))
        yield path, layer
        for below, child in children(layer):
            yield from visit(path + below, child)

    yield from visit((), root)
    for path, layer in found:  # Grows.
        for i, child in enumerate(layer._layers):
            yield from visit((*path, TRACKED, i), child)


def described(root: keras.Layer) -> list[tuple[Path, str]]:
    """Returns what a layer or model is made of: paths and classes of all layers inside."""
    return [(path, type(layer).__name__) for path, layer in walk(root)]


def children(layer: keras.Layer) -> Iterator[tuple[Path, keras.Layer]]:
    """Yields the layers that a layer holds, in its graph, attributes, lists, dicts and objects."""
    if isinstance(layer, keras.Sequential):
        graph = "layers"
    else:
        graph = "operations" if isinstance(layer, Functional) else None
    for i, operation in enumerate(getattr(layer, graph) if graph else ()):
        if isinstance(operation, keras.Layer):
            yield (graph, i), operation
    seen = set()
    for name, value in attributes(layer).items():
        yield from _inside(value, (name,), seen)


def attributes(holder) -> dict[str, object]:
    """Returns the attributes of a layer, or of a plain object, that are not Keras' bookkeeping."""
    known = _bookkeeping() if isinstance(holder, keras.Layer) else ()
    return {name: value for name, value in vars(holder).items() if name not in known}


def items(container) -> list[tuple[str | int, object]]:
    """Returns what a list, tuple, dict or plain object holds, by the keys of a path."""
    if isinstance(container, dict):
        return [(key, value) for key, value in container.items() if isinstance(key, (str, int))]
    if isinstance(container, (list, tuple)):
        return list(enumerate(container))
    return list(attributes(container).items()) if _is_open(container) else []


def at(root, path: Path):
    """Returns what is at a path from `root`.

    Raises:
        LookupError: if nothing is.
    """
    try:
        for step in path:
            root = root[step] if isinstance(root, (dict, list, tuple)) else getattr(root, step)
    except (AttributeError, LookupError, TypeError) as error:
        raise LookupError(f"there is no {dotted(path)}: {error}") from error
    return root


def dotted(path: Path) -> str:
    """Returns a path as one writes it in Python: `encoder.operations[3]`."""
    steps = (f".{step}" if isinstance(step, str) else f"[{step}]" for step in path)
    return "".join(steps).lstrip(".")


def captured(layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    """Yields layers that functions and sets in a layer's attributes hold, with the attributes."""
    for name, value in attributes(layer).items():
        if not isinstance(value, keras.Layer):
            yield from ((name, held) for held in held_by(value) if held is not layer)


def held_by(value) -> Iterator[keras.Layer]:
    """Yields the layers that something holds in whatever way."""
    pending, seen = [value], set()
    while pending:
        holder = pending.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        if isinstance(holder, keras.Layer):
            yield holder
        else:
            pending += [inside for _, inside in items(holder)] + _captives(holder)


def _captives(holder) -> list:
    if isinstance(holder, (set, frozenset)):
        return list(holder)
    if isinstance(holder, functools.partial):
        return [holder.func, *holder.args, *holder.keywords.values()]
    if isinstance(holder, types.MethodType):
        return [holder.__self__]
    if isinstance(holder, types.FunctionType):
        cells = [cell for cell in holder.__closure__ or () if cell != types.CellType()]
        return [*(cell.cell_contents for cell in cells), *(holder.__defaults__ or ())]
    return []


def _inside(value, path: Path, seen: set[int]) -> Iterator[tuple[Path, keras.Layer]]:
    if isinstance(value, keras.Layer):
        yield path, value
    elif id(value) not in seen:
        seen.add(id(value))
        for key, item in items(value):
            yield from _inside(item, (*path, key), seen)


def _is_open(value) -> bool:
    """Whether something is an object of a class of the user's own, whose attributes may be set."""
    kinds = (type, types.FunctionType, types.MethodType, types.ModuleType, functools.partial)
    if not hasattr(value, "__dict__") or isinstance(value, kinds):
        return False
    return type(value).__module__.partition(".")[0] not in _CLOSED


#: Attributes that compiling, fitting and evaluating give to a model.
_TRAINING = (
    *("optimizer", "history", "stop_training", "stop_evaluating", "stop_predicting"),
    *("_compile_config", "_compiled_trainable_state", "_eval_epoch_iterator"),
)


@functools.cache
def _bookkeeping() -> frozenset[str]:
    """The attributes that Keras itself gives to layers and models."""
    inputs = keras.Input((1,))
    references = (keras.layers.Layer(), keras.Sequential(), keras.Model(inputs, inputs))
    return frozenset(_TRAINING).union(*map(vars, references))
