"""Trains one run in a process of its own, so that its peak memory is its own.

`python -m tensorflow_groupnorm.study.worker CONFIG DATA` takes a `RunConfig` as JSON and the path
of the images, and writes one JSON object per line: progress, and at last the result.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from . import resnet
from .config import FINAL_EPOCHS, RunConfig

#: Seconds between two progress messages.
REPORT_INTERVAL = 0.2

VALIDATION_BATCH = 256


class Progress(keras.callbacks.Callback):
    """Reports the steps done and times them.

    Args:
        emit: takes a message.
    """

    def __init__(self, emit: Callable[[dict], None]):
        """See the class."""
        super().__init__()
        self.step_seconds: list[float] = []
        self._emit = emit
        self._steps = 0
        self._last_step = None
        self._last_report = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        """Forgets the last step: the first interval of an epoch holds more than a step."""
        self._last_step = None

    def on_train_batch_end(self, batch, logs=None):
        """Times the interval since the last step."""
        now = time.perf_counter()
        if self._last_step is not None:
            self.step_seconds.append(now - self._last_step)
        self._last_step = now
        self._steps += 1
        if now - self._last_report > REPORT_INTERVAL:
            self._last_report = now
            self._emit({"steps": self._steps})

    def on_epoch_end(self, epoch, logs=None):
        """Reports the validation error."""
        self._emit({"steps": self._steps, "epoch": epoch + 1, "error": 1 - logs["val_accuracy"]})


def train(config: RunConfig, data: Path, emit: Callable[[dict], None]) -> dict:
    """Trains a run from its beginning to its end.

    Args:
        config: the run.
        data: the path of a `Dataset`.
        emit: takes progress messages: `steps` done, and after an epoch its number and `error`.

    Returns:
        `history` (lists with one value per epoch; errors in [0, 1]), `error` (the median of the
        final epochs), `diverged`, `parameters`, `step_ms` (median, without validation and the
        first steps of epochs; `None` for a single step per epoch), `seconds` of training and
        validation, `peak_mib` and `baseline_mib` (resident memory: the most of this process, and
        what it used before the model was built).
    """
    keras.utils.set_random_seed(config.seed)
    with np.load(data) as arrays:
        x_train, y_train, x_val, y_val = (
            arrays[key] for key in ("x_train", "y_train", "x_val", "y_val")
        )
    # The last, smaller batch is dropped: it would be normalized over another batch size.
    train_set = (
        tf.data.Dataset.from_tensor_slices((x_train, y_train))
        .shuffle(len(x_train), seed=config.seed)
        .batch(config.batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    val_set = tf.data.Dataset.from_tensor_slices((x_val, y_val)).batch(VALIDATION_BATCH)
    baseline = _memory_mib("VmRSS")
    model = resnet.build(config, x_train.shape[1:], int(y_train.max()) + 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        config.peak_learning_rate, config.epochs * len(train_set)
    )
    model.compile(
        optimizer=keras.optimizers.SGD(schedule, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    progress = Progress(emit)
    start = time.perf_counter()
    history = model.fit(
        train_set,
        validation_data=val_set,
        epochs=config.epochs,
        callbacks=[keras.callbacks.TerminateOnNaN(), progress],
        shuffle=False,
        verbose=0,
    ).history
    seconds = time.perf_counter() - start
    errors = [1 - accuracy for accuracy in history["val_accuracy"]]
    steps = progress.step_seconds
    return {
        "history": {
            "loss": _finite(history["loss"]),
            "train_error": [1 - accuracy for accuracy in history["accuracy"]],
            "val_loss": _finite(history["val_loss"]),
            "val_error": errors,
        },
        "error": statistics.median(errors[-FINAL_EPOCHS:]),
        "diverged": not math.isfinite(history["loss"][-1]),
        "parameters": model.count_params(),
        "step_ms": statistics.median(steps) * 1e3 if steps else None,
        "seconds": seconds,
        "baseline_mib": baseline,
        "peak_mib": _memory_mib("VmHWM"),
    }


def _finite(values: list[float]) -> list[float | None]:
    """Returns the values with NaN and infinity, which JSON lacks, as `None`."""
    return [value if math.isfinite(value) else None for value in values]


def _memory_mib(field: str) -> float:
    """Returns a memory size of this process as Linux accounts for it, in MiB.

    `VmHWM` is the peak of what `ru_maxrss` reports, but starts with the process: `ru_maxrss` of a
    child also counts what its parent held when it was started.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def main():
    """Trains the run that the command line names."""
    # Whatever else prints must not get between the messages.
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(message: dict):
        print(json.dumps(message, allow_nan=False), file=messages, flush=True)

    emit({"result": train(RunConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]), emit)})


if __name__ == "__main__":
    main()
