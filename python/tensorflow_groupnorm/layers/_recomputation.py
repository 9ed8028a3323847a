"""What layers compute again in a backward pass, instead of keeping it from the forward pass."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Hashable, Iterator

import tensorflow as tf

from .. import ops as fused

_CURRENT: contextvars.ContextVar[Recomputation | None] = contextvars.ContextVar(
    "recomputation", default=None
)


class Recomputation:
    """A backward pass in which layers are called again.

    Args:
        after: a tensor of the backward pass. Nothing is computed again before it is there.
    """

    def __init__(self, after: tf.Tensor) -> None:
        self._after = after
        self._results: dict[Hashable, tf.Tensor] = {}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Applies this recomputation within a `with` block, in this thread."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def once(self, key: Hashable, compute: Callable[[], tf.Tensor]) -> tf.Tensor:
        """Returns `compute()` of the first call with this key."""
        if key not in self._results:
            self._results[key] = compute()
        return self._results[key]

    def later(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the tensor; what is computed from it is not shared with the forward pass."""
        return fused.optimization_barrier(tensor, self._after)


def current() -> Recomputation | None:
    """Returns the recomputation that is active in this thread, or None."""
    return _CURRENT.get()
