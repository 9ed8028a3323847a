"""What the package uses of Keras beyond its public interface, and how it registers with Keras."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras.src.activations import activations as _activations
from keras.src.backend import AutocastScope, get_keras_mask
from keras.src.backend.common.global_state import set_global_attribute as _set_global_attribute
from keras.src.backend.common.remat import RematMode
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope
from keras.src.backend.common.variables import get_autocast_scope
from keras.src.export.export_utils import get_input_signature, make_tf_tensor_spec
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.models.functional import make_node_key as _make_node_key
from keras.src.models.model import inject_functional_model_class as _inject_functional
from keras.src.ops import nn as _nn
from keras.src.ops import numpy as _numpy
from keras.src.ops.function import map_graph as _map_graph
from keras.src.ops.node import Node
from keras.src.saving.serialization_lib import SafeModeScope, _retrieve_class_or_fn
from keras.src.utils import is_default
from keras.src.utils.tracking import DotNotTrackScope as _NotTracking

__all__ = [
    "AddOperation",
    "AutocastScope",
    "Functional",
    "LinearOperations",
    "NamedInFiles",
    "Node",
    "ReluActivation",
    "ReluOperation",
    "RematMode",
    "SafeModeScope",
    "SiluOperation",
    "build_by_run",
    "current_precision",
    "find_class",
    "functional_like_constructor",
    "get_autocast_scope",
    "get_input_signature",
    "get_keras_mask",
    "get_stateless_scope",
    "in_converter",
    "in_stateless_scope",
    "inherit_state",
    "is_default",
    "is_in_graph",
    "make_functional",
    "make_tf_tensor_spec",
    "name_scopes",
    "on_tensorflow",
    "operations_between",
    "refresh_graph",
    "register",
    "rematerialized_like",
    "replace_tracked",
    "stateless_scope",
    "take_place",
]

#: The operations of `keras.ops.add` and so on in a functional model. That of
#: `keras.activations.relu` with arguments has a slope, a threshold and a limit.
AddOperation = _numpy.Add
ReluActivation = _activations.ReLU
ReluOperation = _nn.Relu
SiluOperation = _nn.Silu

#: The operations of `keras.ops` whose gradients need nothing but the shapes of their inputs.
LinearOperations = (_numpy.Add, _numpy.Concatenate, _numpy.Mean, _numpy.Subtract)

#: Decorates a class of this package so that Keras saves and loads its objects.
register = functools.partial(
    keras.saving.register_keras_serializable, package="tensorflow_groupnorm"
)


# The modules of Keras that convert a model for runtimes without custom ops.
_CONVERTERS = {"keras.src.export.litert", "keras.src.export.onnx"}


def in_converter() -> bool:
    """Whether `keras.Model.export` is tracing a model for ONNX or LiteRT."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") in _CONVERTERS:
            return True
        frame = frame.f_back
    return False


# The modules of Keras that write the names of classes into files.
_WEIGHTS_FILES = "keras.src.saving.saving_lib"
_CONFIGS = "keras.src.saving.serialization_lib"


class NamedInFiles(type):
    """The type of the classes of this package, which have names of their own in files.

    Keras takes all names of a class from its `__name__`. For the two modules that write files it
    is another one than for `model.summary()`, `help()` and errors:

    - A `.weights.h5` file addresses a layer by it. That of a standardized layer is the name of the
      stock layer (`_weights_name`), so that weights move both ways.
    - A config has it beside the registered name, by which Keras finds the class. If it does not,
      the error says "Could not locate class" with this name, which tells what to import:
      `tensorflow_groupnorm.layers.StandardizedConv2D`.
    """

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        name: str = type.__dict__["__name__"].__get__(cls)
        reader = sys._getframe(1).f_globals.get("__name__")
        if reader == _WEIGHTS_FILES:
            return str(cls.__dict__.get("_weights_name", name))
        package = cls.__module__.partition("._")[0]
        if reader == _CONFIGS and package.partition(".")[0] == __package__:
            return f"{package}.{name}"
        return name


def on_tensorflow() -> bool:
    """Whether Keras runs on its TensorFlow backend, the one that has the fused ops."""
    return keras.backend.backend() == "tensorflow"


@contextlib.contextmanager
def stateless_scope(scope: keras.StatelessScope | None) -> Iterator[None]:
    """Makes a stateless scope, or None for no scope, the current one without entering it."""
    current = get_stateless_scope()
    _set_global_attribute("stateless_scope", scope)
    try:
        yield
    finally:
        _set_global_attribute("stateless_scope", current)


def find_class(
    config: dict[str, Any], custom_objects: dict[str, type] | None = None
) -> type | None:
    """Returns the class that a config names if Keras itself finds it, else None.

    Args:
        config: with `module`, `class_name` and `registered_name`.
        custom_objects: classes by their names.
    """
    scope = keras.saving.get_custom_objects() | (custom_objects or {})
    try:
        return _retrieve_class_or_fn(
            config["class_name"],
            config["registered_name"],
            config["module"],
            obj_type="class",
            full_config=config,
            custom_objects=scope,
        )
    except (TypeError, ValueError, ImportError):
        return None


def make_functional(kind: type) -> None:
    """Makes instances of a `keras.Model` subclass functional models.

    Keras does the same when the constructor of such a class first passes inputs and outputs.
    """
    if not issubclass(kind, (Functional, keras.Sequential)):
        _inject_functional(kind)


def is_in_graph(functional: Functional, node: Node) -> bool:
    """Whether a call is part of a functional model."""
    index = node.operation._inbound_nodes.index(node)
    return _make_node_key(node.operation, index) in functional._nodes


def operations_between(
    inputs: Sequence[keras.KerasTensor], outputs: Sequence[keras.KerasTensor]
) -> list[keras.Operation]:
    """Returns the operations that compute `outputs` from `inputs`."""
    operations: list[keras.Operation] = _map_graph(list(inputs), list(outputs))[2]
    return operations


def refresh_graph(functional: Functional) -> None:
    """Updates what a functional model records about its graph after calls in it have changed."""
    before = {id(layer) for layer in functional.layers}
    with _NotTracking():
        (
            functional._nodes,
            functional._nodes_by_depth,
            functional._operations,
            functional._operations_by_depth,
        ) = _map_graph(functional._inputs, functional._outputs)
    functional.output_names = [x._keras_history.operation.name for x in functional.outputs]
    after = functional.layers
    known = before | {id(layer) for layer in after}
    others = [layer for layer in functional._layers if id(layer) not in known]
    # In the order of a model loaded from its config: optimizers match weights by their order.
    for layer in list(functional._layers):
        functional._tracker.untrack(layer)
    with _unlocked(functional):
        for layer in [*after, *others]:
            functional._tracker.track(layer)


def replace_tracked(holder: keras.Layer, old: keras.Layer, new: keras.Layer) -> None:
    """Makes a layer that tracks `old` track `new` in its place."""
    tracker = holder._tracker
    if not tracker.is_in_store("layers", old):
        return
    if tracker.is_in_store("layers", new):
        tracker.untrack(old)
    else:
        tracker.replace_tracked_value("layers", old, new)


@contextlib.contextmanager
def _unlocked(layer: keras.Layer) -> Iterator[None]:
    locked, layer._tracker.locked = layer._tracker.locked, False
    try:
        yield
    finally:
        layer._tracker.locked = locked


@contextlib.contextmanager
def name_scopes(path: str) -> Iterator[None]:
    """Opens the name scopes of a path, which variables then have at the start of theirs."""
    with contextlib.ExitStack() as stack:
        for name in filter(None, path.split("/")):
            stack.enter_context(keras.name_scope(name))
        yield


def current_precision() -> AutocastScope:
    """Returns a scope with the precision of mixed precision that is active now, for later use."""
    scope = get_autocast_scope()
    return AutocastScope(scope.dtype if scope else None)


def take_place(layer: keras.layers.Layer, holder: keras.layers.Layer) -> None:
    """Gives the variables of a layer that is not built the paths that they had without `holder`."""
    layer._parent_path = holder._parent_path


def build_by_run(layer: keras.Layer, build_config: dict[str, Any]) -> None:
    """Builds a layer without a `build` of its own, and the layers inside, by tracing its `call`.

    If the call cannot be traced, this has no effect.
    """
    with layer._open_name_scope():
        if "input_shape" in build_config:
            first = build_config["input_shape"]
            built = layer._build_by_run_for_single_pos_arg(first)
        else:
            shapes = build_config.get("shapes_dict", {})
            first = next(iter(shapes.values()), None)
            built = layer._build_by_run_for_kwargs(shapes)
        if built:
            layer.build(first)  # Records the shape.


def rematerialized_like(layer: keras.Layer) -> contextlib.AbstractContextManager[Any]:
    """Returns a scope in which new layers get the rematerialization mode of `layer`."""
    mode = layer._remat_mode
    return keras.RematScope(mode=None) if mode is None else keras.RematScope(**mode._asdict())


def inherit_state(old: keras.Layer, new: keras.Layer) -> None:
    """Copies what Keras records about a layer besides its config and variables."""
    new.trainable = old.trainable
    new._remat_mode = old._remat_mode
    new._called = old._called  # Keras does not export a subclassed model that was never called.
