"""A million random calls of the raw ops. `tests/malformed_calls.py` repeats any of them."""

import os

import malformed_calls
import pytest

# Seeds, so many that the calls are more than a million.
SEEDS = {"eager": 900_000, "inference": 150_000, "graph": 12_000, "jit": 3_000}


@pytest.mark.heavy
@pytest.mark.parametrize("mode", SEEDS)
def test_a_million_calls(mode, capsys):
    with capsys.disabled():
        answers, wrong = malformed_calls.run(mode, 0, SEEDS[mode], len(os.sched_getaffinity(0)))
    assert not wrong, wrong[:3]
    least = {"eager": 700_000, "inference": 120_000, "graph": 120_000, "jit": 5_000}
    assert answers.total() >= least[mode]
