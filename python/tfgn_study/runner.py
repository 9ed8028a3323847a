"""Plans a study, trains what is missing and reports."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

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

from .config import RunConfig, Study
from .data.dataset import Dataset, prepare
from .environment import collect
from .errors import Interrupted, StudyError
from .report import report
from .train import pool


def run(study: Study, console: Console | None = None) -> dict[str, Any]:
    """Runs a study. Runs whose results are already in `study.out` are not trained again.

    Args:
        study: the options.
        console: prints progress and results; on the standard output by default.

    Returns:
        The content of `results.json`; see `report.summarize`.

    Raises:
        StudyError: if the study cannot run with these options; no training has started then.
        RunError: if a training failed; the runs finished before are kept.
        Interrupted: on Ctrl-C; the runs finished before are kept.
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
        # Closed on Ctrl-C, whenever it comes, so that no run goes on.
        with contextlib.closing(_train_all(missing, study, dataset, console)) as trained:
            for config, result in trained:
                results[config] = result
    except KeyboardInterrupt:
        done = sum(result is not None for result in results.values())
        raise Interrupted(
            f"interrupted: {done} of {len(runs)} runs are kept in {study.out}; "
            "the same command continues with the others"
            + (", from their last epoch" if study.checkpoints else "")
        ) from None
    finished = [result for result in results.values() if result is not None]
    return report.write(study, dataset, environment, finished, console)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StudyError(f"out must be a folder that can be written to: {error}") from error


def _digest(file: Path | None) -> str | None:
    """Returns a digest of the content of a file, `None` for no file."""
    if file is None:
        return None
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:12]


def _load(folder: Path, config: RunConfig) -> dict[str, Any] | None:
    """Returns the kept result of a run, or `None`."""
    with contextlib.suppress(OSError, ValueError):
        result = json.loads((folder / f"{config.name}.json").read_text())
        if isinstance(result, dict) and result.get("config") == config.as_dict():
            return result
    return None


def _train_all(
    runs: list[RunConfig], study: Study, dataset: Dataset, console: Console
) -> Generator[tuple[RunConfig, dict[str, Any]], None, None]:
    """Trains runs, `study.workers` at a time, and writes their results.

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
            # A run that diverged did fewer steps than planned.
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
