"""A study that is killed again and again ends as one that was not."""

import json
import random
import signal
import subprocess
import sys
import time

import environments
import pytest
from study_runs import two_classes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return two_classes(tmp_path_factory.mktemp("images"), 16, (8, 8), (0, 160), (64, 224))


def start(folder, out, epochs):
    command = [sys.executable, "-m", "tfgn_cli", "study", "--data", str(folder)]
    command += ["--out", str(out), "--norms", "bn,gn+ws", "--batch-sizes", "8,4"]
    command += ["--image-size", "8", "--validation-split", "0.25", "--epochs", str(epochs)]
    command += ["--workers", "2", "--checkpoints"]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def results(out):
    """What of each run is not a time or a size; every file is whole."""
    kept = {}
    for path in out.glob("runs/*.json"):
        result = json.loads(path.read_text())
        kept[path.name] = (result["history"], result["error"], result["parameters"])
    return kept


def finish(process):
    error = process.communicate(timeout=600)[1].decode()
    assert process.returncode == 0, error


@pytest.mark.parametrize(
    ("kills", "epochs"),
    [
        pytest.param(2, 30, marks=pytest.mark.thorough),
        pytest.param(30, 300, marks=pytest.mark.heavy),
    ],
)
def test_killed_study_loses_nothing(folder, tmp_path, kills, epochs):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(start(folder, undisturbed, epochs))
    expected = results(undisturbed)
    assert len(expected) == 4

    rng, done, times = random.Random(0), {}, 0
    while times < kills:
        process = start(folder, killed, epochs)
        # It takes some seconds until the first step: some kills come before, most after.
        time.sleep(rng.uniform(2, 10))
        if process.poll() is not None:
            break
        family = environments.processes(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        times += 1
        deadline = time.monotonic() + 20
        while environments.alive(family[1:]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not environments.alive(family[1:]), "workers outlived the study"
        kept = results(killed)
        assert done.items() <= kept.items(), "a finished run was lost or changed"
        done = kept
    assert times >= min(kills, 2), "the study was over before it was killed"
    finish(start(folder, killed, epochs))
    assert results(killed) == expected
    assert len(json.loads((killed / "results.json").read_text())["runs"]) == 4
