"""`tfgn bench MODEL`: its options, rows and tables."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tfgn_cli
from rich.console import Console
from small_models import small
from tfgn_cli import _memory
from tfgn_cli._model_bench import run, tables
from tfgn_cli._model_bench.job import AS_IT_IS, CONVERTED, SAVING, VARIANTS, Job
from tfgn_cli._model_bench.sources import Sources

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MIB = 2**20
# Runs in a graph, but not under XLA.
PYTHON_LAYER = """
import keras, tensorflow as tf
@keras.saving.register_keras_serializable("of_the_user")
class InPython(keras.layers.Layer):
    def call(self, x):
        one = tf.ensure_shape(tf.numpy_function(lambda: 1.0, [], tf.double), [])
        return x * tf.cast(tf.stop_gradient(one), x.dtype)
"""


@pytest.fixture
def saved(tmp_path):
    small().save(tmp_path / "in.keras")
    return str(tmp_path / "in.keras")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["in.keras", "--batch-size", "2"], "argument MODEL: there is no file in.keras"),
        (["folder/model", "--batch-size", "2"], "argument MODEL: there is no file folder/model"),
        (["ResNet50"], "argument --batch-size: MODEL needs it"),
        (["ResNet50", "--batch-size", "0"], "--batch-size: expected at least 1, received 0"),
        (["ResNet50", "--batch-size", "1", "--image-size", "-1"], "--image-size: expected at"),
        (["ResNet50", "--batch-size", "1", "--groups", "0"], "argument --groups: expected a pos"),
        (["ResNet50", "--batch-size", "1", "--repeats", "0"], "argument --repeats: expected at"),
        (["ResNet50", "--batch-size", "1", "--memory", "1e9"], "GB that this machine has left"),
        (["ResNet50", "--batch-size", "1", "--memory", "nan"], "received nan"),
        (["ResNet50", "--batch-size", "1", "--shapes", "2x4"], "--shapes: not allowed with MODEL"),
        (["--batch-size", "1"], "argument --batch-size: needs MODEL"),
        (["--json", "/"], "argument --json: / is a folder"),
        (["--json", "/proc/bench.json"], "argument --json: /proc/bench.json cannot be written: No"),
        (["--import", "module"], "argument --import: needs MODEL"),
        (["--no-jit"], "argument --no-jit: needs MODEL"),
    ],
)
def test_bad_options_are_one_sentence_and_exit_code_2(argv, sentence, capsys):
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(["bench", *argv])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert sentence in error and error.count("\n") == 1


def test_rows_are_not_run_where_the_others_leave_no_memory(monkeypatch):
    monkeypatch.setattr(_memory, "available", lambda: 2**30)
    first = {"peak_bytes": 1000 * MIB}
    process, values = run._start(None, run.Row(CONVERTED, False), first)
    assert process is None and values["peak_bytes"] is None
    assert values["error"] == "it was not run: the other processes leave only 1.0 GB"


def test_each_variant_is_searched_from_its_row(tmp_path, monkeypatch):
    each = {AS_IT_IS: 10, str(tmp_path / "0.keras"): 5}

    def convert(method, job, variant, path):
        assert (method, variant) == ("convert", SAVING)
        return {"saved": True, "notes": []}

    monkeypatch.setattr(
        run, "_peak", lambda source, size: MIB * (50 + size * each[source.job.model])
    )
    rows = [
        {"variant": AS_IT_IS, "jit": False, "error": None, "peak_bytes": 70 * MIB},
        {"variant": CONVERTED, "jit": False, "error": "it failed", "peak_bytes": None},
        {"variant": SAVING, "jit": False, "error": None, "peak_bytes": 60 * MIB},
        {"variant": SAVING, "jit": True, "error": None, "peak_bytes": 60 * MIB},
    ]
    sources = Sources(Job(AS_IT_IS, 2), tmp_path, convert)
    searches = run._searches(sources, 150 * MIB, rows, run._progress())
    found = [(s["variant"], s["batch_size"], s["too_large"], s["note"]) for s in searches]
    assert found == [
        (AS_IT_IS, 10, 11, None),
        (CONVERTED, 0, None, "it failed"),
        (SAVING, 20, 21, None),
    ]


def printed(result):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(*tables.of(result), sep="\n")
    return capture.get()


def test_tables_fit_into_80_columns_and_tell_what_failed():
    facts = {"model": "a_model_with_a_name_that_is_rather_long", "parameters": 123456789}
    facts |= {"dtype": "mixed_bfloat16", "inputs": {"a": [64, 128, 128, 128, 4]}}
    good = {"training_ms": 12345.67, "inference_ms": 1234.56, "peak_bytes": 54321 * MIB}
    ratios = dict.fromkeys(good, 1.0)
    why = "it does not run on random numbers: " + "a long sentence of another program " * 4
    rows = [
        {"variant": variant, "jit": jit, "error": None, "notes": [], "ratios": ratios, **good}
        for jit in (False, True)
        for variant in VARIANTS
    ]
    rows[4] |= {"error": why, "ratios": {}} | dict.fromkeys(good)
    rows[5] |= {"error": why, "ratios": {}} | dict.fromkeys(good)
    searches = [
        {"variant": variant, "limit_bytes": 8 * 2**30, "batch_size": size, "too_large": size + 1}
        | {"peaks": {size: 8000 * MIB} if size else {1: 9000 * MIB}, "note": note}
        for variant, size, note in zip(VARIANTS, (12, 0, 24), (None, None, "why"), strict=True)
    ]
    result = {"facts": facts | {"optimizer": "SGD", "batch_norms": 3}, "repeats": 10, "rows": rows}
    text = printed(result | {"largest_batches": searches})
    assert max(map(len, text.splitlines())) <= 80
    assert "as it is (BN), jit" in text
    words = " ".join(text.split())
    assert f"converted, jit; converted, save_memory, jit: {why.strip()}" in words
    assert "converted, save_memory 12345.7 1.00 1234.6 1.00 54321 1.00" in words
    assert "converted, jit - - - - - -" in words
    assert "In 8 GB:" in words and "as it is 12 1.00 8000 13" in words
    assert "converted none - - 1" in words and "converted, save_memory 24 2.00 8000 25" in words


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_every_row_of_a_model_is_measured(jit, saved, tmp_path, capsys):
    path = tmp_path / "bench.json"
    options = ["--batch-size", "2", "--image-size", "12", "--repeats", "2", "--json", str(path)]
    assert tfgn_cli.main(["bench", saved, *options, *["--no-jit"] * (not jit)]) == 0
    result = json.loads(path.read_text())
    assert result["facts"]["inputs"] == {"images": [2, 12, 12, 3]}
    assert result["facts"]["optimizer"] == "SGD" and result["environment"]["fused"] is True
    rows = {(row["variant"], row["jit"]): row for row in result["rows"]}
    assert list(rows) == [(variant, jit) for jit in {False, jit} for variant in VARIANTS]
    first = result["rows"][0]
    for row in result["rows"]:
        assert row["error"] is None
        for name in ("training_ms", "inference_ms", "peak_bytes"):
            assert row[name] > 0
            assert row["ratios"][name] == pytest.approx(row[name] / first[name])
    words = " ".join(capsys.readouterr().out.split())
    assert f"converted {rows[CONVERTED, False]['training_ms']:.1f}" in words


@pytest.mark.thorough
def test_rows_that_fail_are_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "python_layer.py").write_text(PYTHON_LAYER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    layer = importlib.import_module("python_layer").InPython(name="in_python")
    small(layers=[layer]).save(tmp_path / "in.keras")
    model, path = str(tmp_path / "in.keras"), tmp_path / "bench.json"
    options = ["--batch-size", "1", "--image-size", "8", "--repeats", "1", "--json", str(path)]
    assert tfgn_cli.main(["bench", model, *options, "--import", "python_layer"]) == 0
    for row in json.loads(path.read_text())["rows"]:
        assert (row["error"] is not None) == row["jit"]
        assert (row.get("training_ms") is None) == row["jit"]
    words = " ".join(capsys.readouterr().out.split())
    names = ", jit; ".join(VARIANTS)
    assert words.endswith(f"{names}, jit: XLA cannot compile PyFunc")
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(["bench", model, *options])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.count("\n") == 1
    assert "--import" in error


@pytest.mark.slow
def test_ctrl_c_ends_the_processes(saved):
    command = "import sys, tfgn_cli; sys.exit(tfgn_cli.main(sys.argv[1:]))"
    options = [saved, "--batch-size", "2", "--image-size", "8", "--repeats", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, "bench", *options], stderr=subprocess.PIPE, text=True
    )
    workers = f"/proc/{process.pid}/task/{process.pid}/children"
    deadline = time.monotonic() + 60
    children = []
    while not children:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
        with open(workers) as file:
            children = file.read().split()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "\ntfgn: interrupted; nothing new is kept\n"
    assert not any(os.path.exists(f"/proc/{child}") for child in children)
