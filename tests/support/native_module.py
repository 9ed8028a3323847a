"""The kernels on NumPy arrays: `from native_module import native`.

A module of the package that is installed for tests and benchmarks only.
"""

try:
    from tensorflow_groupnorm import _native as native
except ImportError as error:
    raise ImportError(
        f"The kernels cannot be tested without TensorFlow: {error}. `./dev setup` builds the "
        "module `_native`, and so does `pip install` with TFGN_NATIVE=ON in the environment."
    ) from error

__all__ = ["native"]
