"""The types that the signatures of the package name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

# What `tf.convert_to_tensor` takes.
TensorLike: TypeAlias = (
    tf.Tensor | tf.Variable | keras.Variable | np.ndarray | Sequence[Any] | float
)

# What `tf.as_dtype` takes.
DType: TypeAlias = tf.DType | np.dtype | type | str

# The activations that the ops compute themselves.
FusedActivation: TypeAlias = Literal["linear", "relu", "silu"]

# A tensor of the Keras backend in use, or a symbolic one.
KerasTensor: TypeAlias = Any

# The shape of a batch, with None for a size that is not known.
Shape: TypeAlias = Sequence[int | None]

# What the functions `get` of `keras.activations`, `keras.initializers`, ... take: a name, a config
# or an object.
Activation: TypeAlias = str | Mapping[str, Any] | Callable[[Any], Any] | None
Initializer: TypeAlias = str | Mapping[str, Any] | keras.Initializer | None
Regularizer: TypeAlias = str | Mapping[str, Any] | keras.Regularizer | None
Constraint: TypeAlias = str | Mapping[str, Any] | keras.constraints.Constraint | None
