"""Runs the workers: one process per framework, only one of which computes at a time.

A waiting worker takes no CPU time from the others: no framework's threads spin for more than 0.3 ms
after a call.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from .cases import CONTENDERS
from .sections import Entry, Group

ROOT = Path(__file__).resolve().parent.parent

#: A contender that has used up this time in a group stops, but not before so many rounds.
BUDGET_SECONDS = 3.0
FEWEST_ROUNDS = 5

#: The frameworks of our own kernels and ops, without which there is nothing to measure.
REQUIRED = ("kernels", "tensorflow")

ENVIRONMENT = {
    # Fail rather than measure the stock ops in place of the fused ones.
    "tensorflow": {
        "TFGN_REQUIRE_FUSED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    },
    # Otherwise PyTorch's threads share a core.
    "pytorch": {"OMP_PROC_BIND": "true"},
    "flax": {"JAX_PLATFORMS": "cpu"},
}


class FrameworkMissing(Exception):
    """The framework cannot be imported."""


class WorkerError(Exception):
    """A request failed."""


class WorkerProcess:
    """A process that runs `worker.py`.

    Raises:
        FrameworkMissing: if the framework cannot be imported.
    """

    def __init__(self, framework: str):
        self.framework = framework
        self._log = tempfile.TemporaryFile()  # stderr, shown only if the process dies
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", framework, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | ENVIRONMENT.get(framework, {}),
            cwd=ROOT,
            stderr=self._log,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        try:
            self.versions = self.result()
        except BaseException as error:  # Also on Ctrl-C: no one else can close the process yet.
            self.close()
            if isinstance(error, WorkerError):
                raise FrameworkMissing(str(error)) from None
            raise

    def ask(self, method: str, *arguments):
        """Sends a request, whose answer `result` returns."""
        with contextlib.suppress(BrokenPipeError):  # `result` raises the error.
            self._connection.send((method, *arguments))

    def result(self):
        """Returns the answer to the oldest request.

        Raises:
            WorkerError: if the request failed or the process has ended.
        """
        try:
            succeeded, value = self._connection.recv()
        except (EOFError, ConnectionError):
            code = self._process.wait()
            self._log.seek(0)
            log = self._log.read().decode(errors="replace")
            raise WorkerError(f"{log}the {self.framework} worker has ended with {code}") from None
        if not succeeded:
            raise WorkerError(value)
        return value

    def call(self, method: str, *arguments):
        """Sends a request and returns its answer."""
        self.ask(method, *arguments)
        return self.result()

    def close(self):
        """Kills the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._log.close()


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
                process = WorkerProcess(framework)
            except FrameworkMissing as error:
                if framework in REQUIRED:
                    raise WorkerError(f"{framework} cannot be measured: {error}") from None
                self.missing[framework] = str(error)
                return None
            self._processes[framework] = process
            self.versions |= process.versions
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
            if spent[entry] > BUDGET_SECONDS and round_number >= FEWEST_ROUNDS:
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
    process = WorkerProcess(CONTENDERS[entry.contender])
    try:
        return process.call("peak_memory", entry)
    finally:
        process.close()
