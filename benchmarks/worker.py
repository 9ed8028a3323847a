"""The process that runs the contenders of one framework for `rounds.py`.

`python -m benchmarks.worker FRAMEWORK DESCRIPTOR` serves requests for the methods of `Worker`.
"""

from __future__ import annotations

import gc
import importlib
import sys
import time

from tfgn_cli import _memory
from tfgn_cli._processes import serve

from . import inputs
from .cases import Case, Norm
from .frameworks import Elsewhere
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
        """Returns the increase of peak memory over the memory with the inputs alone, in bytes."""
        rings = {}
        self._fill(rings, entry.case)
        _memory.trim()
        before = _memory.resident()
        call = self._contender(entry, rings)

        def run(times: int):
            for _ in range(times):
                call()

        run(WARM_UP)
        return _memory.peak_of(lambda: run(STEPS_FOR_MEMORY)) - before

    def _fill(self, rings: dict, case: Case):
        if case.inputs not in rings:
            rings[case.inputs] = [
                self._framework.load(case, inputs.draw(case.inputs, seed))
                for seed in range(inputs.slots(case))
            ]

    def _contender(self, entry: Entry, rings: dict):
        contender, case = entry
        self._fill(rings, case)
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
        ns = outputs.ns if isinstance(outputs, Elsewhere) else stop - start
        del outputs  # freed after the clock has stopped
        return ns


def main(framework: str, descriptor: str):
    """Serves requests until the parent closes the connection."""

    def create():
        module = importlib.import_module(f"benchmarks.frameworks.{framework}")
        return Worker(module), module.versions()

    serve(descriptor, create)


if __name__ == "__main__":
    main(*sys.argv[1:])
