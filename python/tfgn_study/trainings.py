"""Trains the runs of a study that have no result yet, and keeps the results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from tfgn_base.files import write_text

from .config import RunConfig, Study
from .data.dataset import Dataset
from .report import report
from .train import pool


class Trainings:
    """The runs of a study: those with a result, and those to be trained.

    A context in which a progress bar is shown.

    Args:
        study: the options.
        console: prints progress and results.

    Attributes:
        results: the results so far.
    """

    def __init__(self, study: Study, console: Console):
        """See the class."""
        self.results: dict[RunConfig, dict[str, Any]] = {}
        self._study = study
        self._folder = study.out / "runs"
        self._progress = Progress(
            # Of 80 columns the bar has what the texts leave; a longer description is wrapped.
            TextColumn("{task.description}", table_column=Column()),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            transient=True,
        )
        self._total = self._progress.add_task("", total=0, visible=False)

    def __enter__(self) -> Trainings:
        """Shows the progress bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Removes the progress bar."""
        self._progress.stop()

    def load(self, runs: Iterable[RunConfig]) -> None:
        """Reads the results that were kept before."""
        for run in runs:
            with contextlib.suppress(OSError, ValueError):
                result = json.loads((self._folder / f"{run.name}.json").read_text())
                if isinstance(result, dict) and result.get("config") == run.as_dict():
                    self.results[run] = result

    def count(self, runs: list[RunConfig]) -> int:
        """Returns the number of these runs that have a result."""
        return sum(run in self.results for run in runs)

    def results_of(self, runs: list[RunConfig]) -> dict[RunConfig, dict[str, Any]]:
        """Returns the results of runs, all of which have one."""
        return {run: self.results[run] for run in runs}

    def missing(self, runs: list[RunConfig]) -> list[RunConfig]:
        """Returns the runs to be trained so that all have results."""
        without = [run for run in runs if run not in self.results]
        twins = {run.twin for run in without}
        return [run for run in without if run not in twins]

    def expect(self, plan: Mapping[Dataset, list[RunConfig]]) -> None:
        """Shows how many runs on each data set are still to be trained, and their steps."""
        missing = [(run, data) for data, runs in plan.items() for run in self.missing(runs)]
        (total,) = (task for task in self._progress.tasks if task.id == self._total)
        self._progress.update(
            self._total,
            description=f"{len(missing)} {'run' if len(missing) == 1 else 'runs'}",
            total=total.completed + sum(_steps(run, data) for run, data in missing),
            visible=True,
        )

    def complete(self, runs: list[RunConfig], dataset: Dataset) -> None:
        """Trains what is missing, `study.workers` at a time; on Ctrl-C no run goes on.

        Raises:
            RunError: if a training failed.
        """
        study, arguments = self._study, []
        if study.bit_checkpoint is not None:
            arguments += ["--bit-checkpoint", str(study.bit_checkpoint)]
        if study.checkpoints:
            arguments += ["--checkpoints", str(study.out / "checkpoints")]
        trained = pool.train(
            self.missing(runs), dataset.path, self._folder, study.workers, arguments
        )
        rows: dict[RunConfig, TaskID] = {}
        with contextlib.closing(trained):
            for run, message in trained:
                if run not in rows:
                    total = _steps(run, dataset)
                    rows[run] = self._progress.add_task(self._title(run), total=total)
                self._show(run, message, rows[run])
                if "result" in message:
                    self._keep(run, message["result"])

    def _title(self, run: RunConfig) -> str:
        title = report.title(run, self._study)
        if self._study.tune_learning_rate:
            title += f", learning rate {run.learning_rate:g}"
        return title

    def _show(self, run: RunConfig, message: dict[str, Any], row: TaskID) -> None:
        """Shows what a message says."""
        title = self._title(run)
        (task,) = (task for task in self._progress.tasks if task.id == row)
        if "epoch" in message:
            text = f"{title}, epoch {message['epoch']}/{run.epochs}, error {message['error']:.1%}"
            self._progress.update(row, description=text)
        # A run that diverged did fewer steps than planned.
        done = message.get("steps", task.total or 0)
        self._progress.advance(self._total, done - task.completed)
        self._progress.update(row, completed=done)
        if "result" in message:
            self._progress.update(row, visible=False)
            result = message["result"]
            self._progress.console.print(
                f"{title}: validation error {result['error']:.2%} after {result['seconds']:.0f} s"
            )

    def _keep(self, run: RunConfig, result: dict[str, Any]) -> None:
        """Writes the result of a run; before it that of its twin, which would be lost without."""
        if run.twin is not None and run.twin not in self.results:
            self._keep(run.twin, of_twin(result))
        self.results[run] = {
            "config": run.as_dict(),
            "workers": self._study.workers,
            **result,
        }
        text = json.dumps(self.results[run], indent=1)
        write_text(self._folder / f"{run.name}.json", text)


def of_twin(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the result of the twin of a run; see `worker.train`.

    Args:
        result: the result of the run, with `running_statistics`.
    """
    other = dict(result)
    running = other.pop("running_statistics")
    return other | running | {"history": result["history"] | running["history"]}


def _steps(run: RunConfig, dataset: Dataset) -> int:
    return run.epochs * (dataset.train // run.batch_size)
