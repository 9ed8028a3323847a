"""Random inputs, in enough sets that the caches do not hold the next one."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np

from .cases import NETWORKS, RESNET50_KERNELS, Calls, Case, Inference, Norm, Step, Weights

ALIGNMENT = 64
HUGE_BYTES = 1 << 30


@functools.cache
def last_level_cache() -> int:
    """Returns the bytes of the largest cache, or 32 MB if Linux does not report it."""
    sizes = [
        int(path.read_text().strip().removesuffix("K")) * 1024
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=32 << 20)


def slots(case: Case) -> int:
    """Returns the number of input sets, which together exceed twice the last-level cache."""
    if isinstance(case, (Step, Inference)):
        return 4  # A network touches far more than its inputs.
    if isinstance(case, Calls):
        return 1  # The ops of a chain find their inputs in the cache.
    # An input far larger than the cache is evicted before it is read again.
    fewest = 1 if case.nbytes > HUGE_BYTES else 2
    return max(fewest, math.ceil(2 * last_level_cache() / case.nbytes))


def draw(case: Case, seed: int, mean: float = 0.0) -> dict:
    """Draws one set of inputs: NumPy arrays, or lists of arrays for `Weights`."""
    rng = np.random.default_rng(seed)
    if isinstance(case, Norm):
        channels = case.shape[case.axis]
        x = _normal(rng, case.shape)
        if mean:
            x += np.float32(mean)
        arrays = {"x": x, "dy": _normal(rng, case.shape)}
        if case.residual:
            arrays["residual"] = _normal(rng, case.shape)
        arrays = {name: _cast(array, case.dtype) for name, array in arrays.items()}
        parameters = "float64" if case.dtype == "float64" else "float32"
        arrays["gamma"] = rng.uniform(0.5, 1.5, channels).astype(parameters)
        arrays["beta"] = rng.normal(size=channels).astype(parameters)
        return arrays
    if isinstance(case, Weights):
        return {name: [_normal(rng, shape) for shape in RESNET50_KERNELS] for name in ("w", "dw")}
    if isinstance(case, Inference):
        return {name: _normal(rng, shape) for name, shape in case.shapes.items()}
    return _of_step(rng, case)


def _of_step(rng: np.random.Generator, case: Step) -> dict:
    network, images = NETWORKS[case.network], _normal(rng, case.shape)
    if network.embedding:
        embedding = _normal(rng, (case.batch, network.embedding))
        return {"images": images, "embedding": embedding, "labels": _normal(rng, case.shape)}
    voxels = case.shape[1:-1] if case.network == "unet3d" else ()
    return {"images": images, "labels": rng.integers(network.classes, size=(case.batch, *voxels))}


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Returns a new array with TensorFlow's alignment, whose pages are mapped."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.zeros(nbytes + ALIGNMENT, np.uint8)
    buffer.fill(0)  # np.zeros maps pages lazily
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    array = aligned(shape, np.float32)
    return rng.standard_normal(dtype=np.float32, out=array)


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(dtype, copy=False)
