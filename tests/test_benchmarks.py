"""The benchmarks run and report; what they measure is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_a_section_from_measuring_to_report(tmp_path):
    result = run(
        *("--only", "ladder", "--shapes", "2x8x8x32", "--rounds", "2", "--output", str(tmp_path))
    )
    assert result.returncode == 0, result.stderr
    report = (tmp_path / "RESULTS.md").read_text()
    assert "| 2x8x8x32 |" in report
    assert "**Forward + backward**" in report
    assert (tmp_path / "plots" / "ladder.png").stat().st_size > 10_000
    json.loads((tmp_path / "results.json").read_text())

    (tmp_path / "RESULTS.md").unlink()
    assert run("--render", "--output", str(tmp_path)).returncode == 0
    assert (tmp_path / "RESULTS.md").read_text() == report


def test_refusals_name_the_argument(tmp_path):
    for arguments, words in (
        (["--only", "everything"], "everything"),
        (["--shapes", "2x8xchannels"], "2x8xchannels"),
        (["--render", "--output", str(tmp_path / "nothing")], "results.json"),
    ):
        result = run(*arguments)
        assert result.returncode == 2, result.stderr
        assert words in result.stderr
        assert "Traceback" not in result.stderr


def test_gpu_benchmarks_refuse_in_one_sentence_where_there_is_no_gpu():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert result.stderr.startswith("benchmarks.gpu: ")
    assert result.stderr.count("\n") == 1
    help_text = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "--build-folder" in help_text.stdout
