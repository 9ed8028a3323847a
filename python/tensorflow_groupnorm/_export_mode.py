"""How the functions and layers behave while a model is traced for an export.

The one switch between `export`, which sets it, and `ops` and `layers`, which obey it. It holds for
the thread that sets it and reaches through nested and shared layers, wrappers and subclassed
models alike, as nothing in the model changes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import hashlib

import tensorflow as tf

from ._keras import AutocastScope, get_autocast_scope, in_stateless_scope

_CURRENT: contextvars.ContextVar[ExportMode | None] = contextvars.ContextVar(
    "export_mode", default=None
)


class ExportMode:
    """A trace of a model for an export: standardized kernels become constants of the graph.

    Args:
        stock: whether the functions of `ops` are those of `stock`.

    Attributes:
        stock: the same.
        folded_bytes: the size of the constants so far.
    """

    def __init__(self, stock: bool):
        self.stock = stock
        self.folded_bytes = 0
        self._constants = {}

    @contextlib.contextmanager
    def active(self):
        """Makes this what the functions and layers obey, for the time of a `with` block."""
        token = _CURRENT.set(self)
        try:
            yield self
        finally:
            _CURRENT.reset(token)

    def constant(self, value):
        """Returns an eager tensor as a constant of the graph under construction.

        Equal tensors become one constant: a layer called twice has its kernel once.
        """
        graph = tf.compat.v1.get_default_graph()
        array = value.numpy()
        digest = hashlib.sha256(array.tobytes()).digest()
        # The graph is held too, as the id of one that is gone may come back.
        key = (id(graph), value.dtype, array.shape, digest)
        if key not in self._constants:
            self.folded_bytes += array.nbytes
            self._constants[key] = graph, tf.constant(array, value.dtype, name="folded_kernel")
        return self._constants[key][1]


def stock_ops() -> bool:
    """Whether the functions of `ops` are to be those of `stock`."""
    mode = _CURRENT.get()
    return mode is not None and mode.stock


def folded(compute):
    """Calls a function that depends on variables alone; under an export, once and for all.

    Args:
        compute: returns a tensor.

    Returns:
        The tensor; in the graph of an export a constant of its value now.
    """
    mode = _CURRENT.get()
    # In a stateless scope variables may read as tensors of the graph.
    if mode is None or tf.executing_eagerly() or in_stateless_scope():
        return compute()
    return mode.constant(_call_outside_of_graphs(compute))


def _call_outside_of_graphs(compute):
    """Calls a function in a thread of its own, so eagerly and with no trace that notices it.

    In `tf.init_scope` the graph under construction would take note of every variable that is read,
    and the export would save them all.
    """
    scope = get_autocast_scope()

    def call():
        with AutocastScope(scope.dtype if scope else None):
            return compute()

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()
