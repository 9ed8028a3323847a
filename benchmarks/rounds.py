"""Runs the workers: one process per framework, only one of which computes at a time.

A waiting worker takes no CPU time from the others: no framework's threads spin for more than 0.3 ms
after a call.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from pathlib import Path

from tfgn_cli._processes import WorkerError, WorkerProcess

from .cases import CONTENDERS
from .sections import Entry, Group

ROOT = Path(__file__).resolve().parent.parent

#: A contender that has used up the time of its group stops, but not before so many rounds.
FEWEST_ROUNDS = 5

#: The frameworks of our own kernels and ops, without which there is nothing to measure.
REQUIRED = ("kernels", "tensorflow")

_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
ENVIRONMENT = {
    # Fail rather than measure the stock ops in place of the fused ones.
    "tensorflow": {"TFGN_REQUIRE_FUSED": "1", **_TENSORFLOW},
    "tensorflow_cpp": _TENSORFLOW,
    # Otherwise PyTorch's threads share a core.
    "pytorch": {"OMP_PROC_BIND": "true"},
    "flax": {"JAX_PLATFORMS": "cpu"},
}


def start(framework: str) -> WorkerProcess:
    """Starts the process of a framework.

    Raises:
        NotStartedError: if the framework cannot be imported.
    """
    environment = ENVIRONMENT.get(framework, {})
    return WorkerProcess("benchmarks.worker", framework, environment=environment, folder=ROOT)


class Workers:
    """The workers of all installed frameworks, started on first use.

    Attributes:
        versions: the versions of all frameworks started so far.
        missing: the reason why a framework cannot be used, by framework.
    """

    def __init__(self):
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self._processes: dict[str, WorkerProcess] = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes.values():
            process.close()

    def get(self, framework: str) -> WorkerProcess | None:
        """Returns the worker, or None if the framework is not installed.

        Raises:
            WorkerError: if the framework is in `REQUIRED` and not installed.
        """
        if framework not in self._processes and framework not in self.missing:
            try:
                process = start(framework)
            except WorkerError as error:
                if framework in REQUIRED:
                    raise WorkerError(f"{framework} cannot be measured: {error}") from None
                self.missing[framework] = str(error)
                return None
            self._processes[framework] = process
            self.versions |= process.facts
        return self._processes.get(framework)

    def of(self, contender: str) -> WorkerProcess | None:
        """Returns the worker that runs a contender."""
        return self.get(CONTENDERS[contender])


def measure(
    group: Group, workers: Workers, rounds: int, on_round: Callable[[], None]
) -> tuple[dict[Entry, list[float]], dict[Entry, str]]:
    """Times the entries of a group in turn, for a number of rounds.

    Returns:
        The nanoseconds of each round by entry (the median of the calls of a turn), and the error
        messages of the entries that cannot run.
    """
    entries, errors = _prepare(group.entries, workers)
    times = {entry: [] for entry in entries}
    spent = dict.fromkeys(entries, 0.0)
    order = random.Random(0)
    for round_number in range(rounds):
        for entry in order.sample(entries, len(entries)):
            if spent[entry] > group.seconds and round_number >= FEWEST_ROUNDS:
                continue
            calls = workers.of(entry.contender).call("turn", entry)
            times[entry].append(statistics.median(calls))
            spent[entry] += sum(calls) / 1e9
        on_round()
    return times, errors


def _prepare(entries: list[Entry], workers: Workers) -> tuple[list[Entry], dict[Entry, str]]:
    by_worker: dict[WorkerProcess, list[Entry]] = {}
    for entry in entries:
        if worker := workers.of(entry.contender):
            by_worker.setdefault(worker, []).append(entry)
    for worker, its_entries in by_worker.items():
        worker.ask("prepare", its_entries)
    errors = {}
    for worker in by_worker:
        errors |= worker.result()
    ready = [entry for its in by_worker.values() for entry in its if entry not in errors]
    return ready, errors


def peak_memory(entry: Entry) -> int:
    """Returns the peak memory of an entry in bytes, measured in a new process."""
    with start(CONTENDERS[entry.contender]) as process:
        return process.call("peak_memory", entry)
