"""The dtype in which a layer computes."""

from __future__ import annotations

import functools

import keras

from .._types import KerasTensor

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@functools.cache
def common_dtype(*dtypes: str) -> str:
    """Returns the narrowest float dtype that represents the values of all `dtypes`.

    Integers and booleans count as float32, as in the normalization layers of Keras. float16
    together with bfloat16 gives float32.

    Args:
        *dtypes: names of dtypes.

    Raises:
        ValueError: for complex numbers and strings.
    """
    for dtype in dtypes:
        if dtype.startswith("complex") or dtype == "string":
            raise ValueError(f"The tensors must hold real numbers. Received: dtype={dtype}")
    floats = (dtype if dtype in _FLOATS else "float32" for dtype in dtypes)
    return keras.backend.result_type(*floats)


def dtype_of(x: KerasTensor) -> str:
    """Returns the name of the dtype of a tensor."""
    return keras.backend.standardize_dtype(x.dtype)


def cast(x: KerasTensor, dtype: str) -> KerasTensor:
    """Returns a tensor in `dtype`: the tensor itself if that is its dtype."""
    return x if dtype_of(x) == dtype else keras.ops.cast(x, dtype)
