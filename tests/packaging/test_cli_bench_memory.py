"""How `tfgn bench MODEL` measures peaks, in processes of their own, and searches for a batch."""

import signal

import numpy as np
import pytest
from tfgn_cli import _memory
from tfgn_cli._model_bench.largest_batch import MOST_SIZES, Search
from tfgn_cli._processes import NotStartedError, WorkerDiedError, WorkerError, WorkerProcess

MIB = 2**20
WORKER = """
import os, sys
from tfgn_cli._processes import serve
class Worker:
    def twice(self, number): return 2 * number
    def fail(self): raise ValueError("for a reason")
    def die(self): os.kill(os.getpid(), 9)
def create():
    if sys.argv[1] == "missing": import package_that_is_missing
    return Worker(), sys.argv[1]
serve(sys.argv[2], create)
"""


def test_peak_memory_is_that_of_the_call():
    def allocate(mib):
        return lambda: np.ones(mib * MIB // 8).sum()

    allocate(256)()
    _memory.trim()
    before = _memory.resident()
    assert 60 * MIB < _memory.peak_of(allocate(64)) - before < 100 * MIB
    assert 0 < _memory.resident() <= _memory.peak()
    assert 0 < _memory.available() < 2**50


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "worker_of_this_test.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "worker_of_this_test"


def test_a_process_answers_fails_and_dies(worker):
    with WorkerProcess(worker, "facts") as process:
        assert process.facts == "facts" and process.call("twice", 21) == 42
        with pytest.raises(WorkerError, match="Traceback") as raised:
            process.call("fail")
        assert raised.value.sentence == "ValueError: for a reason"
        assert process.call("twice", 2) == 4
        with pytest.raises(WorkerDiedError) as raised:
            process.call("die")
        assert raised.value.exit_code == -signal.SIGKILL
        assert "as the kernel does when memory runs out" in raised.value.sentence
    with pytest.raises(NotStartedError, match="^No module named 'package_that_is_missing'$"):
        WorkerProcess(worker, "missing")


def peaks(fixed, each, most=None):
    """The peak of a step that takes so many MiB, for the weights and for each sample."""
    return lambda size: None if most and size > most else MIB * (fixed + each * size)


@pytest.mark.parametrize(
    ("peak", "first", "limit", "largest"),
    [
        (peaks(100, 10), 2, 1000, 90),
        (peaks(0, 10), 90, 950, 95),
        (peaks(900, 1), 1, 990, 90),
        (peaks(100, 10), 90, 150, 5),
        (peaks(100, 10), 1, 105, 0),
        (peaks(100, 10), 64, 105, 0),
        (peaks(100, 10, most=40), 8, 1000, 40),
        (lambda size: MIB * (100 + 10 * size + size % 3), 2, 1000, 90),
    ],
)
def test_the_largest_batch_is_measured_and_the_next_is_too_large(peak, first, limit, largest):
    search = Search(limit * MIB, {first: peak(first)})
    search.run(peak, lambda: 1 << 60)
    assert search.largest == largest and search.too_large == largest + 1
    assert not search.stopped and len(search.peaks) <= MOST_SIZES


@pytest.mark.parametrize("seed", range(20))
def test_noise_delays_the_search_by_a_few_sizes(seed):
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.95, 1.05, size=1000)
    search = Search(1000 * MIB, {4: int(peaks(500, 7)(4) * noise[4])})
    search.run(lambda size: int(peaks(500, 7)(size) * noise[size]), lambda: 1 << 60)
    assert not search.stopped and search.too_large - search.largest == 1
    assert 60 <= search.largest <= 82


def test_large_batches_are_found_to_two_percent():
    search = Search(10_000 * MIB, {8: peaks(100, 1)(8)})
    search.run(peaks(100, 1), lambda: 1 << 60)
    assert 0.98 * 9900 <= search.largest <= 9900 < search.too_large <= 1.02 * 9900


def test_a_search_never_runs_what_the_machine_has_no_memory_for():
    run_sizes = []

    def measure(size):
        run_sizes.append(size)
        return peaks(100, 10)(size)

    search = Search(1000 * MIB, {10: peaks(100, 10)(10)})
    search.run(measure, lambda: 600 * MIB)
    assert run_sizes and all(peaks(100, 10)(size) <= 600 * MIB for size in run_sizes)
    assert search.largest == 50 and search.too_large is None
    assert search.stopped.startswith("batch 51 was not run: it would need about 0.6 GB")
