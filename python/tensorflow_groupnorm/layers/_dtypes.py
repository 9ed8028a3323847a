"""In which dtype a layer computes."""

import functools

import keras

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@functools.cache
def common_dtype(*dtypes):
    """Returns the narrowest float dtype that holds the values of all `dtypes`.

    Integers and booleans count as float32, as in Keras' normalization layers. float16 and
    bfloat16 together need float32.

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


def dtype_of(x):
    """Returns the name of a tensor's dtype."""
    return keras.backend.standardize_dtype(x.dtype)


def cast(x, dtype):
    """Returns a tensor in `dtype`, itself if it has it."""
    return x if dtype_of(x) == dtype else keras.ops.cast(x, dtype)
