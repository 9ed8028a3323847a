"""Trainings in processes of their own: who runs when, and who is left."""

import os
import signal
import sys

import pytest
from study_runs import run_config
from tfgn_study.errors import RunError
from tfgn_study.train import pool

STUB = """#!/bin/sh
seed=$(expr "$3" : '.*"seed": \\([0-9]*\\)')
mkdir -p "{folder}/started" && touch "{folder}/started/$seed"
echo '{{"steps": 1}}'
while [ ! -e "{folder}/go-$seed" ]; do sleep 0.02; done
echo "{{\\"result\\": \\"$seed with ${{TF_NUM_INTRAOP_THREADS:-all}} threads\\"}}"
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A worker that says where it is, and ends once there is a file for its seed."""
    script = tmp_path / "python"
    script.write_text(STUB.format(folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    return tmp_path


def test_workers_train_at_the_same_time_and_the_next_starts_when_one_ends(stub, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(6))
    runs = [run_config(seed=seed) for seed in range(3)]
    messages = pool.train(runs, stub, stub, workers=2)
    assert {next(messages)[0].seed, next(messages)[0].seed} == {0, 1}
    assert sorted(path.name for path in stub.glob("started/*")) == ["0", "1"]
    (stub / "go-1").touch()
    assert next(messages) == (runs[1], {"result": "1 with 3 threads"})
    assert next(messages) == (runs[2], {"steps": 1})
    (stub / "go-0").touch()
    (stub / "go-2").touch()
    assert {(run.seed, *message) for run, message in messages} == {(0, "result"), (2, "result")}
    assert not list(stub.glob("*.log"))


def test_one_worker_has_all_cores(stub):
    (stub / "go-0").touch()
    *_, (_, message) = pool.train([run_config()], stub, stub, workers=1)
    assert message == {"result": "0 with all threads"}


def test_every_worker_ends_with_the_pool(stub, monkeypatch):
    processes = []
    start = pool._start
    monkeypatch.setattr(pool, "_start", lambda *a: processes.append(start(*a)) or processes[-1])
    messages = pool.train([run_config(seed=seed) for seed in range(3)], stub, stub, workers=2)
    next(messages)
    messages.close()
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2


def test_ctrl_c_while_a_run_ends_leaves_no_process(stub, monkeypatch):
    processes = []
    start = pool._start
    monkeypatch.setattr(pool, "_start", lambda *a: processes.append(start(*a)) or processes[-1])
    wait = pool._wait

    def interrupted(worker):
        monkeypatch.setattr(pool, "_wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "_wait", interrupted)
    (stub / "go-0").touch()
    with pytest.raises(KeyboardInterrupt):
        list(pool.train([run_config()], stub, stub, workers=1))
    assert processes[0].returncode is not None


def test_worker_that_dies_while_writing_is_a_failure(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\nprintf \'{"steps": 1}\\n{"result": \'\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    messages = pool.train([run_config()], tmp_path, tmp_path, workers=1)
    assert next(messages) == (run_config(), {"steps": 1})
    with pytest.raises(RunError, match="failed with exit code 0"):
        next(messages)
