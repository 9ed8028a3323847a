"""The switch that `export` sets and that `ops` and `layers` read while a model is traced.

It applies to the thread that sets it. The model itself does not change, so the switch reaches
nested and shared layers, wrappers and subclassed models.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from ._keras import current_precision, in_converter, in_stateless_scope

_CURRENT: contextvars.ContextVar[ExportMode | None] = contextvars.ContextVar(
    "export_mode", default=None
)


class ExportMode:
    """A trace of a model for an export: standardized kernels become constants of the graph.

    Args:
        stock: the ops, of `GroupNorm` and `StandardizeWeights`, that the functions of `stock`
            replace.
        group_norm: takes the place of `ops.group_norm`, if it is not None.

    Attributes:
        stock: as given.
        group_norm: as given.
        folded_bytes: the total size of the constants so far.
    """

    def __init__(
        self, stock: frozenset[str], group_norm: Callable[..., tf.Tensor] | None = None
    ) -> None:
        self.stock = stock
        self.group_norm = group_norm
        self.folded_bytes = 0
        self._constants: dict[tuple[Any, ...], tuple[tf.Graph, tf.Tensor]] = {}

    @contextlib.contextmanager
    def active(self) -> Iterator[ExportMode]:
        """Applies this mode within a `with` block."""
        token = _CURRENT.set(self)
        try:
            yield self
        finally:
            _CURRENT.reset(token)

    def constant(self, value: tf.Tensor) -> tf.Tensor:
        """Returns an eager tensor as a constant of the graph under construction.

        Equal tensors share a constant, so a layer that is called twice stores its kernel once.
        """
        graph = tf.compat.v1.get_default_graph()
        array = value.numpy()
        digest = hashlib.sha256(array.tobytes()).digest()
        # Holding the graph keeps its id from being reused.
        key = (id(graph), value.dtype, array.shape, digest)
        if key not in self._constants:
            self.folded_bytes += array.nbytes
            self._constants[key] = graph, tf.constant(array, value.dtype, name="folded_kernel")
        return self._constants[key][1]


def is_stock(op: str) -> bool:
    """Returns whether the function of an op must use the one of `stock`.

    Keras' own converters write a custom op as it is, and no runtime accepts their files.
    """
    mode = _CURRENT.get()
    if mode is not None:
        return op in mode.stock
    return not tf.executing_eagerly() and in_converter()


def group_norm() -> Callable[..., tf.Tensor] | None:
    """Returns what takes the place of `ops.group_norm` at present, if anything does."""
    mode = _CURRENT.get()
    return None if mode is None else mode.group_norm


def folded(compute: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Calls a function that depends only on variables; in an export, turns the result constant.

    Args:
        compute: returns a tensor.

    Returns:
        The tensor. In the graph of an export, a constant with the current value.
    """
    mode = _CURRENT.get()
    # In a stateless scope, variables may read as tensors of the graph.
    if mode is None or tf.executing_eagerly() or in_stateless_scope():
        return compute()
    return mode.constant(_call_outside_of_graphs(compute))


def _call_outside_of_graphs(compute: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Calls a function eagerly, in a thread of its own that no trace observes.

    In `tf.init_scope`, the graph under construction would capture every variable that is read, and
    the export would save them all.
    """
    precision = current_precision()

    def call() -> tf.Tensor:
        with precision:
            return compute()

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()
