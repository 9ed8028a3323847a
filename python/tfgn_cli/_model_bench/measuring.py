"""Measures one row, in a process of its own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow_groupnorm._export.errors import first_line

from .. import _memory
from . import models, steps
from .job import Job, RefusedError, Row

#: Calls before the timed ones: tracing and compilation, then memory allocation.
WARM_UP = 2
STEPS_FOR_MEMORY = 3
TRAINING, INFERENCE = "training", "inference"


class Measurer:
    """Trains and runs a model in one variant.

    Every method returns a dictionary. If the row cannot be measured, its only key is `refused`,
    with a sentence.
    """

    def __init__(self) -> None:
        """Makes a measurer without a model."""
        self._before = 0
        self._specs: list[Any] = []
        self._calls: dict[str, Callable[..., Any]] = {}

    def prepare(self, job: Job, row: Row) -> dict[str, Any]:
        """Builds the model.

        Returns:
            `model` (its name), `inputs` (from names to shapes), `dtype` (the policy), `optimizer`,
            `batch_norms` (how many it has), `parameters` and `notes`.
        """
        keras.utils.set_random_seed(0)
        tf.random.normal([1])  # Starts the threads of TensorFlow.
        _memory.trim()
        self._before = _memory.resident()
        return _or_refused(lambda: self._build(job, row))

    def convert(self, job: Job, variant: str, path: str) -> dict[str, Any]:
        """Converts the model to a file.

        Returns:
            `saved`: whether it could be saved; `notes`.
        """

        def write() -> dict[str, Any]:
            model, notes = models.of_job(job, variant)
            try:
                model.save(path)
            except Exception as error:  # Layers of the user may fail in any way.
                reason = f"measured with the memory of its conversion: {first_line(error)}"
                return {"saved": False, "notes": [reason]}
            return {"saved": True, "notes": notes}

        return _or_refused(write)

    def peak(self) -> dict[str, Any]:
        """Trains a few steps after a warm-up.

        Returns:
            `bytes`: the increase of the peak memory over the memory before the model was built.
        """

        def train() -> None:
            for _ in range(STEPS_FOR_MEMORY):
                self._seconds(TRAINING)

        def measure() -> dict[str, Any]:
            self._warm_up(TRAINING)
            return {"bytes": _memory.peak_of(train) - self._before}

        return _or_refused(measure)

    def warm_up(self) -> dict[str, Any]:
        """Runs the inference, whose first calls take longer; `peak` has trained before."""

        def measure() -> dict[str, Any]:
            self._warm_up(INFERENCE)
            _memory.trim()
            return {}

        return _or_refused(measure)

    def turn(self) -> dict[str, Any]:
        """Trains one step and runs one inference, each after an untimed call.

        Returns:
            `training` and `inference` in seconds.
        """

        def measure() -> dict[str, Any]:
            seconds = {}
            for name in (TRAINING, INFERENCE):
                # Other processes have had the caches since the last turn.
                self._seconds(name)
                seconds[name] = self._seconds(name)
            _memory.trim()
            return seconds

        return _or_refused(measure)

    def _build(self, job: Job, row: Row) -> dict[str, Any]:
        model, notes = models.of_job(job, row.variant)
        self._specs = models.inputs(model, job)
        optimizer = steps.optimizer_of(model)
        self._calls = {
            INFERENCE: steps.inference(model, self._specs, row.jit),
            TRAINING: steps.training_step(model, optimizer, row.jit),
        }
        return {
            "model": model.name,
            "inputs": {spec.name: list(spec.shape) for spec in keras.tree.flatten(self._specs)},
            "dtype": model.dtype_policy.name,
            "optimizer": type(optimizer).__name__,
            "batch_norms": sum(
                isinstance(layer, keras.layers.BatchNormalization)
                for layer in model._flatten_layers()
            ),
            "parameters": model.count_params(),
            "notes": notes,
        }

    def _warm_up(self, name: str) -> None:
        for _ in range(WARM_UP):
            self._seconds(name)

    def _seconds(self, name: str) -> float:
        inputs = steps.draw(self._specs)
        tf.test.experimental.sync_devices()
        start = time.perf_counter()
        outputs = self._calls[name](*inputs)
        tf.test.experimental.sync_devices()
        seconds = time.perf_counter() - start
        del outputs  # Freed after the clock has stopped.
        return seconds


def _or_refused(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measure()
    except RefusedError as error:
        return {"refused": str(error)}
    except Exception as error:  # A model of the user may fail in any way.
        return {"refused": _reason(first_line(error))}


def _reason(message: str) -> str:
    # Without the name of the graph, which is another one in every process.
    unsupported = re.search(r"unsupported operations .* on \w+: (\w+(?:, \w+)*)", message)
    if unsupported:
        return f"XLA cannot compile {unsupported[1]}"
    return f"it does not run on random numbers: {message}"
