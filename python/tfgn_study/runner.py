"""Plans a study, trains what is missing and reports."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from . import tuning
from .config import RunConfig, Study
from .data.dataset import Dataset, hold_out, prepare
from .data.sources import count_other_files
from .environment import collect
from .errors import Interrupted, StudyError
from .report import report
from .report.summary import options_of
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
    with _writable(study.out / "runs"):
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
    done = trainings.count([*trials, *runs])
    for text in (_announcement(trials, runs, done, dataset), *_notes(study)):
        console.print(text, soft_wrap=not console.is_terminal)
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


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Makes a folder, and removes what it made if the study is rejected."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise StudyError(f"--out must be a folder that can be written to: {error}") from error
    try:
        yield
    except StudyError:
        with contextlib.suppress(OSError):  # Something is kept in it.
            for path in made:
                path.rmdir()
        raise


def _check_batch_sizes(study: Study, dataset: Dataset) -> None:
    largest = max(study.batch_sizes)
    if largest > dataset.train:
        raise StudyError(
            f"--batch-sizes must be at most the {dataset.train} training images of {dataset.name}; "
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
    count = len(trials) + len(runs)
    return (
        f"{count} run{'s' * (count > 1)} on {data.name}{tuned}: {data.train} training and "
        f"{data.val} validation images, {data.classes} classes; {done} done before."
    )


def _notes(study: Study) -> Iterator[str]:
    others = count_other_files(study)
    if others:
        what = "1 file that is no image" if others == 1 else f"{others} files that are no images"
        yield f"The class folders have {what}, which {'is' if others == 1 else 'are'} not used."
    before = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads((study.out / "results.json").read_text())["options"]
    if before is not None and before != json.loads(json.dumps(options_of(study))):
        yield f"The report in {study.out} is of other options and will be replaced."
