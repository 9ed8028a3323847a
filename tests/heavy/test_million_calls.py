"""A million random calls of the raw ops. `tests/support/malformed_calls.py` repeats any of them."""

import os

import malformed_calls
import pytest

SEEDS = {"eager": 900_000, "inference": 150_000, "graph": 12_000, "jit": 3_000}
# Calls that these seeds make at least: some draw what cannot be made, and functions are called
# several times.
CALLS = {"eager": 730_000, "inference": 130_000, "graph": 140_000, "jit": 5_000}
assert sum(CALLS.values()) > 1_000_000


@pytest.mark.heavy
@pytest.mark.parametrize("mode", SEEDS)
def test_a_million_calls(mode, capsys):
    with capsys.disabled():
        answers, wrong = malformed_calls.run(mode, 0, SEEDS[mode], len(os.sched_getaffinity(0)))
    assert not wrong, wrong[:3]
    assert answers.total() >= CALLS[mode]
