"""Replaces what a layer reads from its kernel variables, for the time of a call."""

import sys
from typing import NamedTuple

import keras
import tensorflow as tf

from .._keras import get_autocast_scope, get_stateless_scope, stateless_scope

# Graphs that TensorFlow makes for the branches and bodies of an outer graph and differentiates with
# it; whatever else has a graph of its own, a `tf.function` above all, keeps what it once captured.
_CONTROL_FLOW = {"CondBranchFuncGraph", "WhileCondFuncGraph", "WhileBodyFuncGraph"}

# Modules in whose functions others run: a function with a gradient of its own, `tf.recompute_grad`
# among them; a tf.function.
_CUSTOM_GRADIENT = "tensorflow.python.ops.custom_gradient"
_TF_FUNCTION = "tensorflow.python.eager.polymorphic_function.polymorphic_function"

# Keras makes its own tf.functions anew at each call (for grouped convolutions on the CPU).
_KERAS_BACKEND = "keras.src.backend."


class WeightScope(keras.StatelessScope):
    """Within it, and in this thread only, some variables read as other tensors.

    Everything else is as outside of it: other variables keep their values (also those that an
    enclosing scope gives them) and are assigned at once; losses are handed on at the exit.

    A gradient goes through the tensors only where TensorFlow records what is done with them. A
    read in a function that keeps its captures (`tf.function`) or has its own gradient
    (`tf.custom_gradient`, `keras.remat`) raises RuntimeError, and so does, at the exit, a variable
    that was never read. `renewed` gives a scope for the inside of such a function.

    Args:
        layer: the layer that losses added within the scope belong to, and that errors name.
        compute: returns the list of `(keras.Variable, tensor)`; called at each entry.
    """

    def __init__(self, layer, compute):
        super().__init__(collect_losses=True)
        self._layer = layer
        self._compute = compute
        self._parent = None
        self._replacements = {}
        self._unread = {}

    def renewed(self):
        """Returns a scope that computes the tensors anew where it is entered."""
        scope = type(self)(self._layer, self._compute)
        scope._parent = self
        return scope

    @property
    def renews(self):
        """Whether this is a scope from `renewed`."""
        return self._parent is not None

    def __enter__(self):
        with stateless_scope(self._outside()):
            replacements = self._compute()
        self._replacements = {id(variable): tensor for variable, tensor in replacements}
        self._unread = {id(variable): variable for variable, _ in replacements}
        self._graph = tf.compat.v1.get_default_graph()
        self._frames = _Frames.running()
        return super().__enter__()

    def _outside(self):
        """Returns the innermost scope that does not replace the same variables, or None."""
        scope = get_stateless_scope()
        while isinstance(scope, WeightScope) and scope._compute is self._compute:
            scope = scope.original_scope
        return scope

    def get_current_value(self, variable):
        """Returns the tensor that `variable` reads as, or None for its own value."""
        tensor = self._replacements.get(id(variable))
        if tensor is not None:
            self._check_read(variable)
            self._unread.pop(id(variable), None)
            return keras.ops.cast(tensor, dtype_as_read(variable))
        if self.original_scope is None:
            return None
        return self.original_scope.get_current_value(variable)

    def _check_read(self, variable):
        functions = _functions_between(tf.compat.v1.get_default_graph(), self._graph)
        frames = _Frames.running()
        if functions > frames.keras_functions - self._frames.keras_functions:
            where = "in a tf.function, which keeps the kernel of the call that traced it"
            remedy = "call it without tf.function, and put tf.function around the whole model"
        elif frames.custom_gradients > self._frames.custom_gradients:
            where = "in a function with a gradient of its own, which would leave the kernel out"
            remedy = (
                "for rematerialization use keras.RematScope around the layer, not keras.remat or "
                "tf.recompute_grad within it"
            )
        else:
            return
        raise RuntimeError(
            f"{self._layer!r} cannot standardize the variable {variable.path}: it is read {where}. "
            f"In the layer's `call`, {remedy}."
        )

    def add_update(self, update):
        """Assigns `(variable, value)` where it stands; Keras calls it in place of doing so."""
        variable, value = update
        if id(variable) in self._replacements:
            raise RuntimeError(
                f"{self._layer!r} cannot standardize the variable {variable.path}: the layer "
                "assigns to it in its `call`, where it reads as the standardized kernel."
            )
        with stateless_scope(self.original_scope):
            variable.assign(value)

    def __exit__(self, *exception):
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
                "read. Only what `call` reads from a Keras variable is standardized; a tf.function "
                "that was traced before reads nothing again."
            )
        for loss in self.losses:
            self._layer.add_loss(loss)

    def _note_reads(self, scope):
        for key in set(self._unread) - set(scope._unread):
            del self._unread[key]


def in_foreign_scope():
    """Whether a stateless scope other than a WeightScope gives variables their values."""
    scope = get_stateless_scope()
    while isinstance(scope, WeightScope):
        scope = scope.original_scope
    return scope is not None


def dtype_as_read(variable):
    """Returns the dtype in which `variable.value` would come: stored, or as autocasting asks.

    `variable.dtype` is float32 for float64 variables too where autocasting is off in a layer.
    """
    scope = get_autocast_scope() if variable._autocast else None
    return (scope.dtype if scope else None) or variable._dtype


def current_scope():
    """Returns the innermost scope of this thread if it is a WeightScope, else None."""
    scope = get_stateless_scope()
    return scope if isinstance(scope, WeightScope) else None


def _functions_between(graph, outer):
    """Returns in how many tf.functions `graph` is, starting from `outer`."""
    count = 0
    while graph is not outer:
        count += type(graph).__name__ not in _CONTROL_FLOW
        graph = getattr(graph, "outer_graph", outer)
    return count


class _Frames(NamedTuple):
    """What runs in this thread: functions with their own gradient, and Keras' tf.functions."""

    custom_gradients: int
    keras_functions: int

    @classmethod
    def running(cls):
        gradients, functions = 0, 0
        frame, in_function = sys._getframe(1), False
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
