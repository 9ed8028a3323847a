"""Trains one run in a process of its own, whose peak memory is thus that of the run.

`python -m tfgn_study.train.worker CONFIG DATA` takes a `RunConfig` as JSON and the path of the
images. It writes one JSON object per line: progress messages, then the result.

    --bit-checkpoint FILE   the checkpoint to fine-tune
    --checkpoints FOLDER    the folder in which a run saves its state after each epoch
    --end-with-stdin        end the process when its standard input closes, as it does when the
                            parent process ends
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf
from tensorflow_groupnorm import models

from .. import mistakes
from ..config import RunConfig
from ..options import FINAL_EPOCHS
from . import batch_statistics, images, network, objectives, optimizers
from .checkpoint import Checkpoint
from .validation import Validation

#: Seconds between two progress messages.
REPORT_INTERVAL = 0.2


class Progress(keras.callbacks.Callback):
    """Reports the finished steps and times them.

    Args:
        emit: receives the messages.
    """

    def __init__(self, emit: Callable[[dict[str, Any]], None]):
        """See the class."""
        super().__init__()
        self.step_seconds: list[float] = []
        self._emit = emit
        self._steps = 0
        self._last_step: float | None = None
        self._last_report = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Forgets the last step: the first interval of an epoch is longer than a step."""
        self._last_step = None
        # Not 0 at the start of a resumed run.
        self._steps = epoch * self.params["steps"]

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Times the interval since the last step."""
        now = time.perf_counter()
        if self._last_step is not None:
            self.step_seconds.append(now - self._last_step)
        self._last_step = now
        self._steps += 1
        if now - self._last_report > REPORT_INTERVAL:
            self._last_report = now
            self._emit({"steps": self._steps})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Reports the validation error."""
        error = (logs or {})["val_error"]
        self._emit({"steps": self._steps, "epoch": epoch + 1, "error": error})


def train(
    config: RunConfig,
    data: Path,
    emit: Callable[[dict[str, Any]], None],
    bit_checkpoint: Path | None = None,
    checkpoints: Path | None = None,
) -> dict[str, Any]:
    """Trains a run, from its beginning or from its last checkpoint.

    Args:
        config: the run.
        data: the path of a `Dataset`.
        emit: receives progress messages: the finished `steps`, and after an epoch its number and
            `error`.
        bit_checkpoint: the `.npz` file whose digest is `config.bit_checkpoint`.
        checkpoints: a folder in which the run saves its state after each epoch until it ends.

    Returns:
        `history` (lists with one value per epoch; errors in [0, 1]), `error` (the median of the
        final epochs), `diverged`, `parameters`, `step_ms` (median, without validation and the
        first step of each epoch; `None` for a single step per epoch), `seconds` of training and
        validation since the last start, `peak_mib` and `baseline_mib` (resident memory of this
        process: the peak, and before the model was built), and `wrong` or `overlaps` (for each of
        the final epochs what `mistakes` writes of the validation images). A run with a `twin` has
        `running_statistics`: `history`, `error`, `wrong` or `overlaps`, and `seconds` of the twin
        where they differ.
    """
    keras.utils.set_random_seed(config.seed)
    with np.load(data, allow_pickle=False) as arrays:
        x_train, y_train, x_val, y_val = (
            arrays[key] for key in ("x_train", "y_train", "x_val", "y_val")
        )
    train_set = images.training_set(x_train, y_train, config)
    baseline = _memory_mib("VmRSS")
    classes = max(mistakes.count_classes(y_train), mistakes.count_classes(y_val))
    model = _model(config, x_train.shape[1:], classes, len(train_set), bit_checkpoint)
    progress = Progress(emit)
    validation = Validation(x_val, y_val, ema=config.ema is not None)
    callbacks = [keras.callbacks.TerminateOnNaN(), validation]
    precise = None
    if config.twin is not None:
        population = batch_statistics.Population(model, x_train)
        precise = batch_statistics.PreciseStatistics(population, validation)
        callbacks.append(precise)
    if config.norm == "bn+frozen":
        population = batch_statistics.Population(model, x_train)
        callbacks.append(batch_statistics.FrozenStatistics(population, config.epochs))
    checkpoint = None if checkpoints is None else Checkpoint(checkpoints / config.name, train_set)
    history, seconds = _fit(model, config, train_set, [*callbacks, progress], checkpoint)
    steps = progress.step_seconds
    key = mistakes.of_labels(y_val).key
    result = _scores(history, key) | {
        "parameters": model.count_params(),
        "step_ms": statistics.median(steps) * 1e3 if steps else None,
        "seconds": seconds,
        "baseline_mib": baseline,
        "peak_mib": _memory_mib("VmHWM"),
    }
    if precise is not None:
        seconds -= precise.seconds
        result["running_statistics"] = _running(history, key) | {"seconds": seconds}
    return result


def _model(
    config: RunConfig,
    shape: tuple[int, int, int],
    classes: int,
    steps_per_epoch: int,
    bit_checkpoint: Path | None,
) -> keras.Model:
    """Returns the compiled network of a run."""
    with _precision(config.mixed_precision):
        model = network.build(config, shape, classes, config.epochs * steps_per_epoch)
        if bit_checkpoint is not None:
            models.load_bit_npz(model, bit_checkpoint, head="zeros")
        model.compile(
            optimizer=optimizers.build(config, steps_per_epoch, model.get_layer("head")),
            loss=objectives.loss(config),
            metrics=[objectives.score(config, classes)],
            jit_compile="auto" if config.jit is None else config.jit,
        )
    return model


def _fit(
    model: keras.Model,
    config: RunConfig,
    train_set: tf.data.Dataset,
    callbacks: list[keras.callbacks.Callback],
    checkpoint: Checkpoint | None,
) -> tuple[dict[str, list[Any]], float]:
    """Returns the history of all epochs, and the seconds of those since the last start."""
    epochs_done = 0
    if checkpoint is not None:
        epochs_done = checkpoint.restore(model)
        if checkpoint.history and not math.isfinite(checkpoint.history[-1]["loss"]):
            epochs_done = config.epochs  # TerminateOnNaN had ended the run.
        callbacks = [*callbacks, checkpoint]
    start = time.perf_counter()
    history = model.fit(
        train_set,
        epochs=config.epochs,
        initial_epoch=epochs_done,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    ).history
    seconds = time.perf_counter() - start
    if checkpoint is not None:
        epochs = checkpoint.history
        history = {key: [logs[key] for logs in epochs] for key in epochs[0]}
        checkpoint.finish()
    return history, seconds


@contextlib.contextmanager
def _precision(name: str | None) -> Iterator[None]:
    """Sets the dtype policy for layers made in the `with` block."""
    before = keras.config.dtype_policy()
    if name is not None:
        keras.config.set_dtype_policy(f"mixed_{name}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _scores(history: dict[str, list[Any]], key: str) -> dict[str, Any]:
    errors = history["val_error"]
    return {
        "history": {
            "loss": _finite(history["loss"]),
            "train_error": [1 - score for score in history["score"]],
            "val_loss": _finite(history["val_loss"]),
            "val_error": errors,
        },
        "error": statistics.median(errors[-FINAL_EPOCHS:]),
        key: history["mistakes"][-FINAL_EPOCHS:],
        "diverged": not math.isfinite(history["loss"][-1]),
    }


def _running(history: dict[str, list[Any]], key: str) -> dict[str, Any]:
    """Returns the scores of the validations with moving averages, as `_scores` does."""
    errors = history["running_error"]
    return {
        "history": {"val_loss": _finite(history["running_loss"]), "val_error": errors},
        "error": statistics.median(errors[-FINAL_EPOCHS:]),
        key: history["running_mistakes"][-FINAL_EPOCHS:],
    }


def _finite(values: list[float]) -> list[float | None]:
    """Returns the values with `None` for NaN and infinity, which JSON does not have."""
    return [value if math.isfinite(value) else None for value in values]


def _memory_mib(field: str) -> float:
    """Returns a memory size of this process in MiB, as Linux counts it.

    `VmHWM` is the peak resident memory since the process started. `ru_maxrss` also counts what the
    parent process held when it started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def _end_with_stdin() -> NoReturn:
    # Unbuffered: at exit the interpreter would wait for the lock of a buffered reader.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Trains the run that the command line names."""
    # Other output goes to the standard error, so that only messages are on the standard output.
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(message: dict[str, Any]) -> None:
        print(json.dumps(message, allow_nan=False), file=messages, flush=True)

    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=json.loads)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bit-checkpoint", type=Path)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--end-with-stdin", action="store_true")
    args = vars(parser.parse_args())
    if args.pop("end_with_stdin"):
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    emit({"result": train(RunConfig(**args.pop("config")), args.pop("data"), emit, **args)})


if __name__ == "__main__":
    main()
