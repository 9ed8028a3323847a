"""What a `GroupNormalization` passes to the op, and how another layer gets hold of it."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from .. import ops as fused
from .._types import FusedActivation
from ._dtypes import cast, dtype_of

_CAPTURE: contextvars.ContextVar[Capture | None] = contextvars.ContextVar("capture", default=None)


@dataclasses.dataclass(frozen=True)
class Operands:
    """The arguments of `ops.group_norm` by name: tensors, None for absent ones, and attributes."""

    x: tf.Tensor
    gamma: tf.Tensor | None
    beta: tf.Tensor | None
    residual: tf.Tensor | None
    groups: int
    axis: int
    epsilon: float
    activation: FusedActivation | None

    def tensors(self) -> list[tf.Tensor]:
        """Returns the tensors that are present."""
        return [tensor for tensor in self._all() if tensor is not None]

    def replaced(self, tensors: Sequence[tf.Tensor]) -> Operands:
        """Returns the same operands with other `tensors()`."""
        values = iter(tensors)
        x, gamma, beta, residual = (
            None if tensor is None else next(values) for tensor in self._all()
        )
        return dataclasses.replace(self, x=x, gamma=gamma, beta=beta, residual=residual)

    def _all(self) -> list[tf.Tensor | None]:
        return [self.x, self.gamma, self.beta, self.residual]

    def normalize(self) -> tuple[tf.Tensor, ...]:
        """Returns the normalized tensor, and the statistics that `gradient` needs."""
        return fused.group_norm_with_statistics(**vars(self))

    def gradient(self, dy: tf.Tensor, *statistics: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns the gradients of `tensors()`, and the normalized tensor again."""
        mean, rstd, rest = statistics
        *gradients, y = fused.group_norm_gradient(
            dy,
            self.x,
            self.gamma,
            self.beta,
            mean,
            rstd,
            rest,
            self.residual,
            groups=self.groups,
            axis=self.axis,
            activation=self.activation,
        )
        return [gradient for gradient in gradients if gradient is not None], y


class Capture:
    """Takes the operands of the next call of a layer, which then does not compute.

    Args:
        layer: the layer, a `GroupNormalization`.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        self.layer = layer
        self._operands: Operands | None = None
        self._result: tf.Tensor | None = None

    def take(self, operands: Operands) -> tf.Tensor:
        """Takes the operands and returns what stands in for the result."""
        dtype = "float64" if dtype_of(operands.x) == "float64" else "float32"
        # Here, where gradients pass through the cast: the op takes no other dtype.
        gamma, beta = (
            None if tensor is None else tf.cast(tensor, dtype)
            for tensor in (operands.gamma, operands.beta)
        )
        self._operands = dataclasses.replace(operands, gamma=gamma, beta=beta)
        self._result = cast(tf.identity(operands.x), self.layer.compute_dtype)
        return self._result

    def operands(self, result: Any) -> Operands:
        """Returns the operands, given the result of the call.

        Raises:
            ValueError: if the layer does more than to normalize.
        """
        if self._operands is None or result is not self._result:
            raise ValueError(
                "The `call` of a normalization must return what `GroupNormalization.call` returns. "
                f"Received: {self.layer!r}, whose class {type(self.layer).__name__} returns "
                "something else"
            )
        return self._operands


@contextlib.contextmanager
def capture(layer: keras.layers.Layer) -> Iterator[Capture]:
    """Takes the operands of a call of the layer within a `with` block."""
    captured = Capture(layer)
    token = _CAPTURE.set(captured)
    try:
        yield captured
    finally:
        _CAPTURE.reset(token)


def capture_of(layer: keras.layers.Layer) -> Capture | None:
    """Returns the capture that waits for a call of the layer, or None."""
    captured = _CAPTURE.get()
    return captured if captured is not None and captured.layer is layer else None
