"""The process that runs the contenders of one framework for `rounds.py`.

`python -m benchmarks.worker FRAMEWORK DESCRIPTOR` serves requests from a connection. A request is
the name of a method of `Worker` and its arguments; an answer is `(True, value)` or
`(False, message)`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import resource
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from . import inputs
from .cases import Norm
from .sections import Entry

WARM_UP = 3
#: A turn has as many calls as fit into this time, each on its own inputs.
TURN_NS = 2_000_000
MOST_CALLS = 8
#: Calls shorter than this follow an untimed call, which wakes the threads that slept during other
#: turns.
WAKE_NS = 20_000_000
STEPS_FOR_MEMORY = 3


class Worker:
    """Runs the contenders of a framework, a module of `benchmarks.frameworks`."""

    def __init__(self, framework):
        self._framework = framework
        self._calls = {}
        self._last_ns = {}
        self._slot = 0

    def versions(self) -> dict:
        return self._framework.versions()

    def prepare(self, entries: list[Entry]) -> dict:
        """Draws inputs, warms up, and discards what was prepared before.

        Returns:
            The error message of each entry that cannot run.
        """
        self._calls, self._last_ns, errors, rings = {}, {}, {}, {}
        gc.collect()
        for entry in entries:
            try:
                self._calls[entry] = self._contender(entry, rings)
                for _ in range(WARM_UP):
                    self._last_ns[entry] = self._time(entry)
            except Exception as error:  # A failing framework must not stop the others.
                self._calls.pop(entry, None)
                errors[entry] = f"{type(error).__name__}: {error}".splitlines()[0]
        return errors

    def turn(self, entry: Entry) -> list[int]:
        """Runs a contender once, or several times if it is fast.

        Returns:
            Nanoseconds of each call.
        """
        calls = max(1, min(MOST_CALLS, TURN_NS // self._last_ns[entry]))
        if self._last_ns[entry] < WAKE_NS:
            self._time(entry)
        times = [self._time(entry) for _ in range(calls)]
        self._last_ns[entry] = sorted(times)[calls // 2]
        return times

    def evaluate(self, contender: str, case: Norm, arrays: dict) -> list:
        """Returns the outputs of one call as NumPy arrays."""
        function = self._framework.function(contender, case)
        return self._framework.to_numpy(case, function(self._framework.load(case, arrays)))

    def peak_memory(self, entry: Entry) -> int:
        """Returns the increase of peak memory over the memory before the entry, in bytes."""
        before = _resident("VmRSS")
        call = self._contender(entry, {})
        for _ in range(WARM_UP):
            call()
        # Garbage of tracing does not belong to a step.
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):  # If not permitted, the peak is that of the process.
            Path("/proc/self/clear_refs").write_text("5")
        for _ in range(STEPS_FOR_MEMORY):
            call()
        return _resident("VmHWM") - before

    def _contender(self, entry: Entry, rings: dict):
        contender, case = entry
        if case.inputs not in rings:
            rings[case.inputs] = [
                self._framework.load(case, inputs.draw(case.inputs, seed))
                for seed in range(inputs.slots(case))
            ]
        ring, function = rings[case.inputs], self._framework.function(contender, case)

        def call():
            self._slot += 1
            return function(ring[self._slot % len(ring)])

        return call

    def _time(self, entry: Entry) -> int:
        call = self._calls[entry]
        start = time.perf_counter_ns()
        outputs = call()
        stop = time.perf_counter_ns()
        del outputs  # freed after the clock has stopped
        return stop - start


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(framework: str, descriptor: str):
    """Serves requests until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles Ctrl-C.
    connection = Connection(int(descriptor))
    try:
        worker = Worker(importlib.import_module(f"benchmarks.frameworks.{framework}"))
    except ImportError as error:
        connection.send((False, str(error)))
        return
    connection.send((True, worker.versions()))
    while True:
        try:
            method, *arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, getattr(worker, method)(*arguments)))
        except Exception:
            connection.send((False, traceback.format_exc()))


if __name__ == "__main__":
    main(*sys.argv[1:])
