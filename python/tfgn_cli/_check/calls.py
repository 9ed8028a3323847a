"""Loads the libraries and calls every op: the process `python -m tfgn_cli._check.calls`.

A process of its own, since a library that does not belong to the installed TensorFlow can end it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .._processes import serve
from .._startup import start_tensorflow
from .limits import DTYPES

# A number of channels per group and a length that are no multiples of a vector.
_SHAPE, _GROUPS, _KERNEL = (2, 9, 7, 20), 4, (3, 3, 20, 12)
# The attribute of the op is a float32, which has this number exactly.
_EPSILON = 2.0**-10


class Calls:
    """Calls ops on a device and compares results with stock ops in float64.

    The methods take the name of a device, such as `"GPU:0"`, and whether to compile with XLA. They
    return, by dtype, the name of the tensor that differs most and its relative error.
    """

    def group_norm(self, device: str, jit: bool) -> dict[str, tuple[str, float]]:
        """Checks GroupNorm and GroupNormGrad, with all operands and an activation."""

        def call(library: Any, x: Any, residual: Any, gamma: Any, beta: Any) -> Any:
            return library.group_norm(
                x, gamma, beta, _GROUPS, epsilon=_EPSILON, activation="silu", residual=residual
            )

        channels = _SHAPE[-1:]
        return _compared(call, [_SHAPE, _SHAPE], [channels, channels], device, jit)

    def standardize_weights(self, device: str, jit: bool) -> dict[str, tuple[str, float]]:
        """Checks StandardizeWeights and StandardizeWeightsGrad."""

        def call(library: Any, kernel: Any, gain: Any) -> Any:
            return library.standardize_weights(kernel, gain)

        return _compared(call, [_KERNEL], [_KERNEL[-1:]], device, jit)

    def optimization_barrier(self, device: str, jit: bool) -> dict[str, tuple[str, float]]:
        """Checks OptimizationBarrier, which returns its first input."""
        import tensorflow as tf
        from tensorflow_groupnorm import ops

        function = tf.function(ops.optimization_barrier, jit_compile=jit)
        errors = {}
        for dtype in DTYPES:
            with tf.device(f"/{device}"):
                x = tf.cast(tf.range(12.0), dtype)
                y = function(x, tf.zeros([2]))
            errors[dtype] = ("y", 0.0 if np.array_equal(x.numpy(), y.numpy()) else 1.0)
        return errors


def _compared(
    call: Callable[..., Any],
    shapes: list[tuple[int, ...]],
    parameter_shapes: list[tuple[int, ...]],
    device: str,
    jit: bool,
) -> dict[str, tuple[str, float]]:
    """Compares a forward and a backward pass with stock ops in float64, for every dtype.

    Args:
        call: the function; takes the library and the tensors.
        shapes: of the tensors, which have the dtype.
        parameter_shapes: of the parameters, which are float32, or float64 beside float64.
        device: where to call it.
        jit: whether to compile it with XLA.
    """
    import tensorflow as tf
    import tensorflow_groupnorm as tfgn

    def run(library: Any, dy: Any, *sources: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(sources)
            y = call(library, *sources)
        return [y, *tape.gradient(y, sources, output_gradients=tf.cast(dy, y.dtype))]

    random = np.random.default_rng(0)
    values = [random.normal(0.5, 1, shape) for shape in (*shapes, *parameter_shapes)]
    upstream = random.normal(size=shapes[0])
    compute = functools.partial(run, tfgn)
    if jit:
        compute = tf.function(compute, jit_compile=True)
    errors = {}
    for dtype in DTYPES:
        wide = "float64" if dtype == "float64" else "float32"
        dtypes = [dtype] * len(shapes) + [wide] * len(parameter_shapes)
        with tf.device(f"/{device}"):
            tensors = [tf.cast(v, t) for v, t in zip(values, dtypes, strict=True)]
            dy = tf.cast(upstream, dtype)
            actual = compute(dy, *tensors)
        with tf.device("/CPU:0"):
            exact = [tf.cast(tensor, "float64") for tensor in (dy, *tensors)]
            expected = run(tfgn.stock, *exact)
        names = ["y", *(f"gradient {i + 1}" for i in range(len(tensors)))]
        measured = {
            name: _relative_error(a, e) for name, a, e in zip(names, actual, expected, strict=True)
        }
        errors[dtype] = max(measured.items(), key=lambda item: item[1])
    return errors


def _relative_error(actual: Any, expected: Any) -> float:
    difference = np.linalg.norm((actual.numpy().astype("float64") - expected.numpy()).ravel())
    error = float(difference / np.linalg.norm(expected.numpy().ravel()))
    return error if np.isfinite(error) else float("inf")


def create() -> tuple[Calls, dict[str, Any]]:
    """Loads the libraries.

    Returns:
        What makes the calls, and facts: `environment` (see `tfgn_study.environment`), `devices`
        (names, such as `"GPU:0"`).
    """
    start_tensorflow()
    import tensorflow as tf
    from tfgn_study import environment

    # An op that has no kernel for a device must fail there, and not run on the CPU.
    tf.config.set_soft_device_placement(False)
    devices = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    return Calls(), {
        "environment": environment.collect(),
        "devices": [name for name in devices if name.startswith(("CPU", "GPU"))],
    }


if __name__ == "__main__":
    serve(sys.argv[1], create)
