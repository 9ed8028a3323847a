"""Replaces the values that a layer reads from some of its variables during a call."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from .._keras import get_autocast_scope, get_stateless_scope, stateless_scope

# The graphs of branches and loop bodies. TensorFlow differentiates them with the graph around them.
# Any other inner graph, such as that of a `tf.function`, keeps what it captured when it was traced.
_CONTROL_FLOW = {"CondBranchFuncGraph", "WhileCondFuncGraph", "WhileBodyFuncGraph"}

# A frame of the first module means that a function with a custom gradient is running
# (`tf.recompute_grad` is one), a frame of the second a tf.function.
_CUSTOM_GRADIENT = "tensorflow.python.ops.custom_gradient"
_TF_FUNCTION = "tensorflow.python.eager.polymorphic_function.polymorphic_function"

# Keras creates its own tf.functions anew at each call (for grouped convolutions on the CPU).
_KERAS_BACKEND = "keras.src.backend."


class WeightScope(keras.StatelessScope):
    """A scope in which, in the current thread, reads of some variables return other tensors.

    Everything else works as outside the scope: other variables keep their values, including those
    from an enclosing scope, and are assigned at once; losses are passed on at the exit.

    Gradients reach the tensors only where TensorFlow records their use. Reading one in a function
    that keeps its captures (`tf.function`) or has a custom gradient (`tf.custom_gradient`,
    `keras.remat`) therefore raises RuntimeError. So does the exit if a variable was never read.
    `renewed` returns a scope for use inside such a function.

    Args:
        layer: the layer that owns the losses added within the scope, and that errors name.
        compute: returns the variables and their tensors; called at each entry.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        compute: Callable[[], Iterable[tuple[keras.Variable, tf.Tensor]]],
    ) -> None:
        super().__init__(collect_losses=True)
        self._layer = layer
        self._compute = compute
        self._parent: WeightScope | None = None
        self._replacements: dict[int, tf.Tensor] = {}
        self._unread: dict[int, keras.Variable] = {}

    def renewed(self) -> WeightScope:
        """Returns a scope that computes the tensors again when it is entered."""
        scope = type(self)(self._layer, self._compute)
        scope._parent = self
        return scope

    @property
    def renews(self) -> bool:
        """Whether `renewed` returned this scope."""
        return self._parent is not None

    def __enter__(self) -> WeightScope:
        with stateless_scope(self._outside()):
            replacements = list(self._compute())
        self._replacements = {id(variable): tensor for variable, tensor in replacements}
        self._unread = {id(variable): variable for variable, _ in replacements}
        self._graph = tf.compat.v1.get_default_graph()
        self._frames = _Frames.running()
        super().__enter__()
        return self

    def _outside(self) -> keras.StatelessScope | None:
        """Returns the innermost scope that does not replace the same variables, or None."""
        scope = get_stateless_scope()
        while isinstance(scope, WeightScope) and scope._compute is self._compute:
            scope = scope.original_scope
        return scope

    def get_current_value(self, variable: keras.Variable) -> tf.Tensor | None:
        """Returns the tensor to read in place of `variable`, or None for its own value."""
        tensor = self._replacements.get(id(variable))
        if tensor is not None:
            self._check_read(variable)
            self._unread.pop(id(variable), None)
            return keras.ops.cast(tensor, dtype_as_read(variable))
        if self.original_scope is None:
            return None
        return self.original_scope.get_current_value(variable)

    def _check_read(self, variable: keras.Variable) -> None:
        functions = _functions_between(tf.compat.v1.get_default_graph(), self._graph)
        frames = _Frames.running()
        if functions > frames.keras_functions - self._frames.keras_functions:
            where = "in a tf.function, which keeps the kernel of the call that traced it"
            remedy = "call it without tf.function, and put tf.function around the whole model"
        elif frames.custom_gradients > self._frames.custom_gradients:
            where = "in a function with a custom gradient, which would leave the kernel out"
            remedy = (
                "for rematerialization, create the layer under keras.RematScope instead of using "
                "keras.remat or tf.recompute_grad within it"
            )
        else:
            return
        raise RuntimeError(
            f"{self._layer!r} cannot standardize the variable {variable.path}: it is read {where}. "
            f"In the layer's `call`, {remedy}."
        )

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Assigns `(variable, value)` at once; Keras calls this instead of assigning."""
        variable, value = update
        if id(variable) in self._replacements:
            raise RuntimeError(
                f"{self._layer!r} cannot standardize the variable {variable.path}: the layer "
                "assigns to it in its `call`, where reads return the standardized kernel."
            )
        with stateless_scope(self.original_scope):
            variable.assign(value)

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._replacements = {}  # A rematerialized call keeps the scope, not its tensors.
        if exception[0] is not None:
            return
        if self._parent is not None:
            self._parent._note_reads(self)
        elif self._unread:
            paths = ", ".join(variable.path for variable in self._unread.values())
            raise RuntimeError(
                f"{self._layer!r} cannot standardize {paths}, which the layer's `call` did not "
                "read. Only what `call` reads from a Keras variable is standardized. A tf.function "
                "that was traced earlier does not read its variables again."
            )
        for loss in self.losses:
            self._layer.add_loss(loss)

    def _note_reads(self, scope: WeightScope) -> None:
        for key in set(self._unread) - set(scope._unread):
            del self._unread[key]


def in_foreign_scope() -> bool:
    """Whether a stateless scope other than a WeightScope gives variables their values."""
    scope = get_stateless_scope()
    while isinstance(scope, WeightScope):
        scope = scope.original_scope
    return scope is not None


def dtype_as_read(variable: keras.Variable) -> str:
    """Returns the dtype of `variable.value`: that of autocasting if active, else the stored one.

    In a layer without autocasting, `variable.dtype` is float32 for float64 variables too.
    """
    scope = get_autocast_scope() if variable._autocast else None
    return (scope.dtype if scope else None) or variable._dtype


def current_scope() -> WeightScope | None:
    """Returns the innermost stateless scope of this thread if it is a WeightScope, else None."""
    scope = get_stateless_scope()
    return scope if isinstance(scope, WeightScope) else None


def _functions_between(graph: tf.Graph, outer: tf.Graph) -> int:
    """Returns the number of tf.functions around `graph` within `outer`."""
    count = 0
    while graph is not outer:
        count += type(graph).__name__ not in _CONTROL_FLOW
        graph = getattr(graph, "outer_graph", outer)
    return count


class _Frames(NamedTuple):
    """How many functions with a custom gradient, and tf.functions of Keras, run in this thread."""

    custom_gradients: int
    keras_functions: int

    @classmethod
    def running(cls) -> _Frames:
        gradients, functions = 0, 0
        frame: types.FrameType | None = sys._getframe(1)
        in_function = False
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            gradients += module == _CUSTOM_GRADIENT
            functions += in_function and module.startswith(_KERAS_BACKEND)
            if module == _TF_FUNCTION:
                in_function = frame.f_code.co_name == "__call__"
            elif not module.startswith("tensorflow.python.util."):
                in_function = False
            frame = frame.f_back
        return cls(gradients, functions)
