"""Plans a study, trains what is missing and reports."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from . import tuning
from .config import RunConfig, Study
from .data.dataset import Dataset, hold_out, prepare
from .environment import collect
from .errors import Interrupted, StudyError
from .report import report
from .trainings import Trainings


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
    _make_writable(study.out / "runs")
    dataset = prepare(
        study, lambda files, text: track(files, text, console=console, transient=True)
    )
    held_out = hold_out(dataset) if study.tune_learning_rate else None
    _check_batch_sizes(study, held_out or dataset)
    environment = collect()
    software = (
        f"tensorflow-groupnorm {environment['tensorflow_groupnorm']}, "
        f"TensorFlow {environment['tensorflow']}, Keras {environment['keras']}, "
        f"{'fused' if environment['fused'] else 'stock'} ops"
    )
    checkpoint = _digest(study.bit_checkpoint)
    trials = study.trials(held_out.digest, software, checkpoint) if held_out else []
    trainings = Trainings(study, console)
    trainings.load(trials)

    def plan() -> list[RunConfig]:
        # Before all trials are done only the rates of these runs are open, not their number.
        known = all(trial in trainings.results for trial in trials)
        rates = tuning.best(trainings.results_of(trials)) if known else {}
        runs = study.runs(dataset.digest, software, checkpoint, rates)
        if known:
            trainings.load(runs)
        return runs

    runs = plan()
    console.print(_announcement(trials, runs, trainings.count([*trials, *runs]), dataset))
    try:
        with trainings:
            if held_out:
                trainings.expect({held_out: trials, dataset: runs})
                trainings.complete(trials, held_out)
                runs = plan()
            trainings.expect({dataset: runs})
            trainings.complete(runs, dataset)
    except KeyboardInterrupt:
        planned = [*trials, *runs]
        raise Interrupted(
            f"interrupted: {trainings.count(planned)} of {len(planned)} runs are kept in "
            f"{study.out}; the same command continues with the others"
            + (", from their last epoch" if study.checkpoints else "")
        ) from None
    grid = tuning.summarize(study, trainings.results_of(trials)) if trials else None
    results = list(trainings.results_of(runs).values())
    return report.write(study, dataset, environment, results, console, grid)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StudyError(f"out must be a folder that can be written to: {error}") from error


def _check_batch_sizes(study: Study, dataset: Dataset) -> None:
    largest = max(study.batch_sizes)
    if largest > dataset.train:
        raise StudyError(
            f"batch_sizes must be at most the {dataset.train} training images of {dataset.name}; "
            f"received {largest}"
        )


def _digest(file: Path | None) -> str | None:
    """Returns a digest of the content of a file, `None` for no file."""
    if file is None:
        return None
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:12]


def _announcement(trials: list[RunConfig], runs: list[RunConfig], done: int, data: Dataset) -> str:
    tuned = f", {len(trials)} of them to tune the learning rates" if trials else ""
    return (
        f"{len(trials) + len(runs)} runs on {data.name}{tuned}: {data.train} training and "
        f"{data.val} validation images, {data.classes} classes; {done} done before."
    )
