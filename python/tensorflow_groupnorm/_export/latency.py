"""Times an export beside the fused SavedModel of the same model."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import tensorflow as tf

from . import check
from .errors import ExportError, first_line
from .export import Exported, export
from .model import named_signature
from .targets import TARGETS

# Calls before the timed ones: compilation, then memory allocation.
_WARM_UP = 3

_SECONDS = 5.0
_FEWEST_ROUNDS = 5


def latencies(model: keras.Model, exported: Exported, example: Any = None) -> dict[str, float]:
    """Times an export and the fused SavedModel in turns, with the runtimes' default threads.

    Args:
        model: what was exported.
        exported: the export.
        example: the batch to run, as for `export`; two random samples by default.

    Returns:
        A dict from targets to the median milliseconds of a call. The target of the export comes
        first. A SavedModel that TensorFlow runs only under XLA on this machine is left out, with a
        warning.

    Raises:
        ExportError: if the model does not run on the batch, or nothing is left to time.
    """
    signature, tensors, _ = check.on_a_batch(model, named_signature(model), None, example)
    batch = check.by_name(signature, tensors)
    calls = {exported.target: TARGETS[exported.target].module.load(exported.path)}
    with TemporaryDirectory() as folder:
        if exported.target != "saved_model":
            fused = export(model, Path(folder, "fused"), example=example, target="saved_model")
            calls[fused.target] = TARGETS[fused.target].module.load(fused.path)
        return _medians(_running(calls, batch), batch)


def _running(
    calls: dict[str, Callable[[dict[str, Any]], Any]], batch: dict[str, Any]
) -> dict[str, Callable[[dict[str, Any]], Any]]:
    running = {}
    for name, call in calls.items():
        try:
            call(batch)
            running[name] = call
        except tf.errors.OpError as error:
            if not check.lacks_kernel(error):
                raise
            reason = f"TensorFlow does not run the {name} on this machine: {first_line(error)}"
            if len(calls) == 1:
                raise ExportError(reason) from error
            warnings.warn(f"The {name} is not timed. {reason}", stacklevel=3)
    return running


def _medians(
    calls: dict[str, Callable[[dict[str, Any]], Any]], batch: dict[str, Any]
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(_WARM_UP):
            call(batch)
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(times[next(iter(times))]) < _FEWEST_ROUNDS:
        for name, call in calls.items():
            start = time.perf_counter()
            call(batch)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}
