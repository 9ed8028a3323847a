"""The kernels through the Python module, and the copies that bound them."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys

from ..cases import Case, Norm
from ..inputs import ALIGNMENT, aligned

# The package without its __init__, which imports TensorFlow; the kernels do not need it.
_spec = importlib.util.find_spec("tensorflow_groupnorm")
if _spec is None:
    raise ImportError("tensorflow_groupnorm is not installed")
sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
try:
    from tensorflow_groupnorm import _native
except ImportError as error:
    raise ImportError(f"{error}. `./dev setup` builds this module.") from error


def versions() -> dict:
    build = _native.build_info()
    return {
        "tensorflow-groupnorm": build["version"],
        "CPU target": _native.cpu_target(),
        "compiler": build["compiler"],
        "Highway": build["highway"],
    }


_CORES = sorted(os.sched_getaffinity(0))


@functools.cache
def _pool(threads: int | None):
    """Returns a pool with each thread bound to a core, as PyTorch's are.

    Linux may wake a thread on the core of the one that wakes it and move it a tick later.
    """
    before = set(os.listdir("/proc/self/task"))
    pool = _native.ThreadPool(threads or len(_CORES))
    started = set(os.listdir("/proc/self/task")) - before
    for thread, core in zip(started, _CORES[1:], strict=False):
        os.sched_setaffinity(int(thread), {core})
    os.sched_setaffinity(0, _CORES[:1])
    return pool


def load(case: Case, arrays: dict) -> dict:
    outputs = {"x": "y", "dy": "dx", "residual": "dside", "w": "w_hat", "dw": "dw_out"}
    loaded = {}
    for name, value in arrays.items():
        loaded[name] = _each(_as_aligned, value)
        if name in outputs:
            loaded[outputs[name]] = _each(lambda array: aligned(array.shape, array.dtype), value)
    return loaded


def _each(function, value):
    return [function(a) for a in value] if isinstance(value, list) else function(value)


def _as_aligned(array):
    if array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def function(contender: str, case: Case):
    pool = _pool(getattr(case, "threads", None))
    if contender == "kernel":
        return _group_norm(case, pool) if isinstance(case, Norm) else _weights(case, pool)
    streaming = contender == "streaming copy"
    copy = functools.partial(_native.copy, threads=pool, streaming=streaming)
    if isinstance(case, Norm):
        return lambda a: copy(a["x"], a["y"])
    return lambda a: [copy(w, out) for w, out in zip(a["w"], a["w_hat"], strict=True)]


def _group_norm(case: Norm, pool):
    options = {
        "groups": case.groups,
        "axis": case.axis,
        "activation": case.activation,
        "threads": pool,
    }

    def call(a):
        side = a["residual"] if case.residual else None
        parameters = a["gamma"], a["beta"]
        y, mean, rstd, rest = _native.group_norm_forward(
            a["x"], *parameters, side, out=a["y"], **options
        )
        if not case.backward:
            return [y]
        gradients = _native.group_norm_backward(
            a["dy"],
            a["x"],
            *parameters,
            mean,
            rstd,
            side,
            rest,
            out=a["dx"],
            side_out=a["dside"] if case.residual else None,
            **options,
        )
        return [y, *gradients]

    return call


def _weights(case, pool):
    def call(a):
        forward = [
            _native.standardize_weights_forward(w, out=out, threads=pool)
            for w, out in zip(a["w"], a["w_hat"], strict=True)
        ]
        if case.backward:
            for i, (_, mean, rstd) in enumerate(forward):
                _native.standardize_weights_backward(
                    a["dw"][i], a["w"][i], None, mean, rstd, out=a["dw_out"][i], threads=pool
                )

    return call


def to_numpy(case: Norm, outputs: list) -> list:
    return [output for output in outputs if output is not None]
