"""Thousands of random calls of the raw ops; `tests/heavy/test_million_calls.py` makes a million."""

import malformed
import malformed_calls
import pytest

# Numbers of seeds, which are not those of the heavy test.
SEEDS = {"eager": 2000, "inference": 2000, "graph": 100, "jit": 60}


@pytest.mark.parametrize("mode", SEEDS)
def test_every_call_is_answered_rightly(mode):
    first = 10**9
    answers, wrong = malformed_calls.make_calls(mode, range(first, first + SEEDS[mode]))
    assert not wrong, wrong[:3]
    # Each op accepted some calls, and refused others for several reasons.
    for op in malformed.INPUTS:
        of_op = {answer for answer in answers if answer.startswith(f"{op} ")}
        assert f"{op} accepted" in of_op and len(of_op) >= (3 if mode == "jit" else 6)


def test_death_of_the_process_is_reported(monkeypatch):
    monkeypatch.setattr(malformed_calls.sys, "executable", "/bin/false")
    answers, ((seed, call, death),) = malformed_calls.run("eager", 7, 1, 1)
    assert not answers and seed == 0 and "ended with 1" in death and call
