"""How far a result of an op may be from float64."""

DTYPES = ("float16", "bfloat16", "float32", "float64")
#: Half the distance between 1 and the next number.
_ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
#: Rounding errors of the arithmetic that a tensor may have in the mean.
_OPERATIONS = 64


def limit(dtype: str) -> float:
    """Returns the largest relative error of a correct tensor, in the Euclidean norm.

    Args:
        dtype: the type of the input. The arithmetic is float32, or float64 for float64.
    """
    arithmetic = _ROUNDING["float64" if dtype == "float64" else "float32"]
    return _OPERATIONS * arithmetic + _ROUNDING[dtype]
