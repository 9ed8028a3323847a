"""Plans a study, trains what is missing, each run in a process of its own, and reports."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)

from .. import _info
from . import data, report
from .config import (
    Interrupted,
    RunConfig,
    RunError,
    Study,
    StudyError,
)
from .files import atomic


def run(study: Study, console: Console | None = None) -> dict:
    """Does a study; runs whose results lie in `study.out` already are not trained again.

    Args:
        study: the options.
        console: where progress and the answer are printed; the standard output by default.

    Returns:
        What is written to `results.json`: see `report.summarize`.

    Raises:
        StudyError: if the study cannot be done as asked; nothing has been trained then.
        RunError: if a training failed; what was finished before is kept.
        Interrupted: on Ctrl-C; what was finished before is kept.
    """
    console = console or Console(markup=False)  # Paths may hold brackets.
    runs_folder = study.out / "runs"
    _make_writable(runs_folder)
    dataset = data.prepare(
        study, lambda files, text: track(files, text, console=console, transient=True)
    )
    largest = max(study.batch_sizes)
    if largest > dataset.train:
        raise StudyError(
            f"batch_sizes must be at most the {dataset.train} training images of {dataset.name}; "
            f"received {largest}"
        )
    environment = _info.collect()
    software = (
        f"tensorflow-groupnorm {environment['tensorflow_groupnorm']}, "
        f"TensorFlow {environment['tensorflow']}, Keras {environment['keras']}, "
        f"{'fused' if environment['fused'] else 'stock'} ops"
    )
    runs = study.runs(dataset.digest, software)
    results = {config: _load(runs_folder, config) for config in runs}
    missing = [config for config in runs if results[config] is None]
    console.print(
        f"{len(runs)} runs on the {dataset.name}: {dataset.train} training and {dataset.val} "
        f"validation images, {dataset.classes} classes; {len(runs) - len(missing)} done before."
    )
    try:
        for config, result in _train_all(missing, dataset, runs_folder, console):
            results[config] = result
    except KeyboardInterrupt:
        done = sum(result is not None for result in results.values())
        raise Interrupted(
            f"interrupted: {done} of {len(runs)} runs are kept in {study.out}, "
            "the same command goes on with the others"
        ) from None
    return report.write(study, dataset, environment, list(results.values()), console)


def _make_writable(folder: Path):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StudyError(f"out must be a folder that can be written to: {error}") from error


def _load(folder: Path, config: RunConfig) -> dict | None:
    """Returns the kept result of a run, or `None`."""
    with contextlib.suppress(OSError, ValueError):
        result = json.loads((folder / f"{config.name}.json").read_text())
        if isinstance(result, dict) and result.get("config") == dataclasses.asdict(config):
            return result
    return None


def _train_all(runs: list[RunConfig], dataset: data.Dataset, folder: Path, console: Console):
    """Trains and keeps runs, one after the other.

    Yields:
        Each config with its result.
    """
    steps = {config: config.epochs * (dataset.train // config.batch_size) for config in runs}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=sum(steps.values()))
        before = 0
        for number, config in enumerate(runs, start=1):
            title = f"{number}/{len(runs)} {config.norm}, batch {config.batch_size}"
            progress.update(task, completed=before, description=title)
            for message in _train(config, dataset.path, folder):
                if "steps" in message:
                    progress.update(task, completed=before + message["steps"])
                if "epoch" in message:
                    epoch = f"epoch {message['epoch']}/{config.epochs}"
                    error = f"error {message['error']:.1%}"
                    progress.update(task, description=f"{title}, {epoch}, {error}")
            before += steps[config]
            result = {"config": dataclasses.asdict(config), **message["result"]}
            with atomic(folder / f"{config.name}.json") as file:
                file.write(json.dumps(result, indent=1).encode())
            progress.console.print(
                f"{config.norm}, batch {config.batch_size}, seed {config.seed}: "
                f"validation error {result['error']:.2%} after {result['seconds']:.0f} s"
            )
            yield config, result


def _train(config: RunConfig, path: Path, folder: Path):
    """Runs a worker to its end, or ends it with the generator.

    Yields:
        The messages of the worker; the last one has its `result`.

    Raises:
        RunError: if the worker ended without a result.
    """
    command = [
        *(sys.executable, "-m", "tensorflow_groupnorm.study.worker"),
        *(json.dumps(dataclasses.asdict(config)), str(path)),
    ]
    log_path = folder / f"{config.name}.log"
    with log_path.open("w") as log:
        # A session of its own: Ctrl-C is for this process, which then ends the worker.
        worker = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    message = {}
    with worker:
        try:
            for line in worker.stdout:
                if not line.endswith("\n"):
                    break  # The worker died while it wrote.
                message = json.loads(line)
                yield message
        except BaseException:
            worker.kill()
            raise
    if worker.returncode or "result" not in message:
        raise RunError(
            f"the run {config.name} failed with exit code {worker.returncode}; "
            f"its output is in {log_path}, the runs before it are kept"
        )
    log_path.unlink()
