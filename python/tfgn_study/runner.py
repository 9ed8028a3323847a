"""Plans a study, trains what is missing and reports."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from tfgn_base.files import write_text

from .config import Interrupted, RunConfig, Study, StudyError
from .data.dataset import Dataset, prepare
from .environment import collect
from .report import report
from .train import pool


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
    dataset = prepare(
        study, lambda files, text: track(files, text, console=console, transient=True)
    )
    largest = max(study.batch_sizes)
    if largest > dataset.train:
        raise StudyError(
            f"batch_sizes must be at most the {dataset.train} training images of {dataset.name}; "
            f"received {largest}"
        )
    environment = collect()
    software = (
        f"tensorflow-groupnorm {environment['tensorflow_groupnorm']}, "
        f"TensorFlow {environment['tensorflow']}, Keras {environment['keras']}, "
        f"{'fused' if environment['fused'] else 'stock'} ops"
    )
    runs = study.runs(dataset.digest, software, _digest(study.bit_checkpoint))
    results = {config: _load(runs_folder, config) for config in runs}
    missing = [config for config in runs if results[config] is None]
    console.print(
        f"{len(runs)} runs on {dataset.name}: {dataset.train} training and {dataset.val} "
        f"validation images, {dataset.classes} classes; {len(runs) - len(missing)} done before."
    )
    try:
        # Closed on Ctrl-C, wherever that comes: then no run goes on.
        with contextlib.closing(_train_all(missing, study, dataset, console)) as trained:
            for config, result in trained:
                results[config] = result
    except KeyboardInterrupt:
        done = sum(result is not None for result in results.values())
        raise Interrupted(
            f"interrupted: {done} of {len(runs)} runs are kept in {study.out}, "
            "the same command goes on with the others"
            + (", from their last epoch" if study.checkpoints else "")
        ) from None
    return report.write(study, dataset, environment, list(results.values()), console)


def _make_writable(folder: Path):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StudyError(f"out must be a folder that can be written to: {error}") from error


def _digest(file: Path | None) -> str | None:
    """Returns what changes when the content of a file does."""
    if file is None:
        return None
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:12]


def _load(folder: Path, config: RunConfig) -> dict | None:
    """Returns the kept result of a run, or `None`."""
    with contextlib.suppress(OSError, ValueError):
        result = json.loads((folder / f"{config.name}.json").read_text())
        if isinstance(result, dict) and result.get("config") == config.as_dict():
            return result
    return None


def _train_all(runs: list[RunConfig], study: Study, dataset: Dataset, console: Console):
    """Trains and keeps runs, `study.workers` at a time.

    Yields:
        Each config with its result.
    """
    steps = {config: config.epochs * (dataset.train // config.batch_size) for config in runs}
    folder = study.out / "runs"
    arguments = []
    if study.bit_checkpoint is not None:
        arguments += ["--bit-checkpoint", str(study.bit_checkpoint)]
    if study.checkpoints:
        arguments += ["--checkpoints", str(study.out / "checkpoints")]
    trainings = pool.train(runs, dataset.path, folder, study.workers, arguments)
    with contextlib.closing(trainings), _progress(console) as progress:
        total = progress.add_task(f"{len(runs)} runs", total=sum(steps.values()))
        rows: dict[RunConfig, TaskID] = {}
        for config, message in trainings:
            title = report.title(config, study)
            if config not in rows:
                rows[config] = progress.add_task(title, total=steps[config])
            if "epoch" in message:
                epoch = f"epoch {message['epoch']}/{config.epochs}"
                error = f"error {message['error']:.1%}"
                progress.update(rows[config], description=f"{title}, {epoch}, {error}")
            # A run that diverged has done fewer steps than planned.
            done = message.get("steps", steps[config])
            progress.advance(total, done - progress.tasks[rows[config]].completed)
            progress.update(rows[config], completed=done)
            if "result" not in message:
                continue
            progress.update(rows[config], visible=False)
            result = {
                "config": config.as_dict(),
                "workers": study.workers,
                **message["result"],
            }
            write_text(folder / f"{config.name}.json", json.dumps(result, indent=1))
            progress.console.print(
                f"{title}: validation error {result['error']:.2%} after {result['seconds']:.0f} s"
            )
            yield config, result


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
