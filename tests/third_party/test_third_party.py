"""Models of other packages: converted, trained, saved, loaded in a fresh process, exported.

Deselected by default: `pytest -m third_party` installs their packages, pinned in requirements.txt,
into an environment of their own, a few gigabytes the first time. The environment variable
TFGN_WHEEL names a wheel that is built already; TFGN_THIRD_PARTY_PYTHON an interpreter that has
all of it, this package included.

What came of each step of each model stays in build/third_party; `python -m third_party.table`
prints it.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import environments
import pytest

from .cases import all_cases

pytestmark = pytest.mark.third_party

TESTS = Path(__file__).parents[1]
RESULTS = environments.ROOT / "build" / "third_party"
SECONDS = 900


@pytest.fixture(scope="module")
def python(request):
    if given := os.environ.get("TFGN_THIRD_PARTY_PYTHON"):
        return given
    return environments.third_party(request.getfixturevalue("wheel"))


@pytest.mark.parametrize("name", all_cases())
def test_model(name, python, tmp_path, capsys):
    command = [python, "-m", "third_party.check", name, "--folder", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "TF_CPP_MIN_LOG_LEVEL": "3"}
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    results = tmp_path / "results.json"
    assert results.exists(), log.read_text()[-2000:]
    steps = json.loads(results.read_text())
    keep(name, tmp_path)
    with capsys.disabled():
        print(f"\n{name}: {summary(steps)}")
    failed = {step: result["error"] for step, result in steps.items() if result["error"]}
    assert not failed
    shutil.rmtree(tmp_path)


def keep(name, folder):
    target = RESULTS / name
    target.mkdir(parents=True, exist_ok=True)
    for file in ("results.json", "report.txt", "log.txt"):
        (target / file).unlink(missing_ok=True)
        if (folder / file).exists():
            shutil.copy(folder / file, target)


def summary(steps):
    seconds = sum(result["seconds"] for result in steps.values())
    failed = [step for step, result in steps.items() if result["error"]]
    impossible = [step for step, result in steps.items() if result["impossible"]]
    words = [f"{len(steps)} steps in {seconds:.0f} s"]
    words += [f"failed: {', '.join(failed)}"] * bool(failed)
    words += [f"impossible: {', '.join(impossible)}"] * bool(impossible)
    return "; ".join(words)


def test_there_are_models_enough():
    assert len(all_cases()) >= 40
