"""The layers inside a layer or model, and the paths that lead to them.

A path is a tuple of attribute names and of keys of lists and dicts: `("encoder", "operations", 3)`
is `model.encoder.operations[3]`. In a copy of the model, it leads to the counterpart.
"""

from __future__ import annotations

import functools
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras

from .._keras import Functional

Path = tuple[str | int, ...]

#: The step of a path through Keras' own list of the layers inside, for layers that are tracked but
#: not reachable through attributes, such as those in sets.
TRACKED = "_layers"

#: Packages whose objects, apart from layers, hold no layers of the user.
_CLOSED = (
    *("builtins", "collections", "keras", "numpy", "tensorflow", "tensorflow_groupnorm"),
    *("threading", "weakref"),
)


def of_keras(kind: Any) -> bool:
    """Returns whether a class or function comes with Keras."""
    return _package(kind) == "keras"


def _package(kind: Any) -> str:
    return kind.__module__.partition(".")[0]


def functional(operation: keras.Operation) -> Functional | None:
    """Returns an operation that is a functional model, or the one inside a `Sequential`."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if isinstance(operation, Functional) else None


def walk(root: keras.Layer) -> Iterator[tuple[Path, keras.Layer]]:
    """Yields a layer and the layers inside it, at any depth, with their paths.

    Each layer comes once, after the layers that hold it. Its path leads through a graph rather than
    an attribute, and through Keras' list of tracked layers only if no attribute leads to it.
    """
    seen: set[int] = set()
    found: list[tuple[Path, keras.Layer]] = []

    def visit(path: Path, layer: keras.Layer) -> Iterator[tuple[Path, keras.Layer]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        found.append((path, layer))
        yield path, layer
        for below, child in children(layer):
            yield from visit(path + below, child)

    yield from visit((), root)
    for path, layer in found:  # The loop body appends to it.
        for i, child in enumerate(layer._layers):
            yield from visit((*path, TRACKED, i), child)


def described(root: keras.Layer) -> list[tuple[Path, str]]:
    """Returns the paths and class names of a layer or model and of all layers inside."""
    return [(path, type(layer).__name__) for path, layer in walk(root)]


def children(layer: keras.Layer) -> Iterator[tuple[Path, keras.Layer]]:
    """Yields the layers that a layer holds, in its graph, attributes, lists, dicts and objects."""
    step = "layers" if isinstance(layer, keras.Sequential) else "operations"
    has_graph = isinstance(layer, (keras.Sequential, Functional))
    for i, operation in enumerate(getattr(layer, step) if has_graph else ()):
        if isinstance(operation, keras.Layer):
            yield (step, i), operation
    seen: set[int] = set()
    for name, value in attributes(layer).items():
        yield from _inside(value, (name,), seen)


def holders(found: list[tuple[Path, keras.Layer]]) -> Counter[int]:
    """Returns, by the id of a layer, how many layers and models call or hold it.

    Args:
        found: layers with their paths, from `walk`.
    """
    held: Counter[int] = Counter()
    for _, holder in found:
        held.update({id(child) for _, child in children(holder)})
    return held


def attributes(holder: Any) -> dict[str, Any]:
    """Returns the attributes of a layer or plain object, except Keras' bookkeeping."""
    known = _bookkeeping() if isinstance(holder, keras.Layer) else ()
    return {name: value for name, value in vars(holder).items() if name not in known}


def items(container: Any) -> list[tuple[str | int, Any]]:
    """Returns the contents of a list, tuple, dict or plain object with the steps of paths."""
    if isinstance(container, dict):
        return [(key, value) for key, value in container.items() if isinstance(key, (str, int))]
    if isinstance(container, (list, tuple)):
        return list(enumerate(container))
    return list(attributes(container).items()) if _is_open(container) else []


def at(root: Any, path: Path) -> Any:
    """Returns the object at a path from `root`.

    Raises:
        LookupError: if there is none.
    """
    step: Any
    try:
        for step in path:
            root = root[step] if isinstance(root, (dict, list, tuple)) else getattr(root, step)
    except (AttributeError, LookupError, TypeError) as error:
        raise LookupError(f"there is no {dotted(path)}: {error}") from error
    return root


def dotted(path: Path) -> str:
    """Returns a path in Python's notation: `encoder.operations[3]`."""
    steps = (f".{step}" if isinstance(step, str) else f"[{step}]" for step in path)
    return "".join(steps).lstrip(".")


def captured(layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    """Yields the layers that functions and sets in attributes of a layer hold, with the names."""
    for name, value in attributes(layer).items():
        if not isinstance(value, keras.Layer):
            yield from ((name, held) for held in held_by(value) if held is not layer)


def held_by(value: Any) -> Iterator[keras.Layer]:
    """Yields the layers that a value holds: in containers, objects, sets and functions."""
    pending, seen = [value], set[int]()
    while pending:
        holder = pending.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        if isinstance(holder, keras.Layer):
            yield holder
        else:
            pending += [inside for _, inside in items(holder)] + _captives(holder)


def _captives(holder: Any) -> list[Any]:
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


def _inside(value: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, keras.Layer]]:
    if isinstance(value, keras.Layer):
        yield path, value
    elif id(value) not in seen:
        seen.add(id(value))
        for key, item in items(value):
            yield from _inside(item, (*path, key), seen)


def _is_open(value: Any) -> bool:
    """Returns whether a value is an object of a user's class, whose attributes may be set."""
    kinds = (type, types.FunctionType, types.MethodType, types.ModuleType, functools.partial)
    if not hasattr(value, "__dict__") or isinstance(value, kinds):
        return False
    return _package(type(value)) not in _CLOSED


#: Attributes that `compile`, `fit` and `evaluate` set on a model.
_TRAINING = (
    *("optimizer", "history", "stop_training", "stop_evaluating", "stop_predicting"),
    *("_compile_config", "_compiled_trainable_state", "_eval_epoch_iterator"),
)


@functools.cache
def _bookkeeping() -> frozenset[str]:
    """The attributes that Keras itself sets on layers and models."""
    inputs = keras.Input((1,))
    references = (keras.layers.Layer(), keras.Sequential(), keras.Model(inputs, inputs))
    return frozenset(_TRAINING).union(*map(vars, references))
