import json
import re
import sys

import pytest
import tensorflow as tf
import tfgn_cli
from tensorflow_groupnorm import _library
from tfgn_study import environment

# As the installed command starts.
COMMAND = """
import sys
import tfgn_cli
sys.argv = ["tfgn", *{argv!r}]
sys.exit(tfgn_cli.main())
"""
OTHER_TENSORFLOW = """
import tensorflow as tf
tf.__version__ = "2.99.1"
"""
COMMANDS = ["study", "convert", "fold", "export", "info", "check", "bench", "install-plugin"]
SLOW_TO_IMPORT = ["tensorflow", "keras", "numpy", "matplotlib", "sklearn", "rich"]
SMALL_BENCH = ["bench", "--shapes", "2x3x4", "--groups", "2", "--repeats", "1"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--help"], COMMANDS),
        (
            ["study", "--help"],
            ["--norms", "--group-size", "default: 1,4,16,64", "  gn+ws          group norm"],
        ),
        (["convert", "--help"], ["--group-size", "bit, timm, qiao", "--import"]),
        (["fold", "--help"], ["OUT.keras", "--norm", "--tolerance", "--import"]),
        (["info", "--help"], ["--json", "the CPU target in use"]),
        (["check", "--help"], ["--json", "copies left in tensorflow-plugins", "names its remedy"]),
        (["bench", "--help"], ["--shapes", "2x56x56x64", "--repeats"]),
        (
            ["bench", "--help"],
            ["[MODEL]", "--batch-size", "ResNet50V2", "--memory", "mean squares"],
        ),
        (["export", "--help"], ["--target", "onnxruntime", "--portable", "--int8", "--pixels"]),
        (["install-plugin", "--help"], ["--remove", "site-packages/tensorflow-plugins"]),
        (["--version"], ["tensorflow-groupnorm 0."]),
    ],
)
def test_help(argv, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(argv)
    output = capsys.readouterr().out
    assert exit_.value.code == 0
    for word in words:
        assert word in output


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "tfgn: error: the following arguments are required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["bench", "--shapes", "2x0x4"], "expected sizes such as 2x56x56x64, received '2x0x4'"),
        (["bench", "--shapes", "64"], "expected sizes such as 2x56x56x64, received '64'"),
        (["bench", "--shapes", ","], "argument --shapes: expected at least one shape"),
        (["bench", "--groups", "3"], "expected a divisor of the 64 channels of 2x56x56x64, rec"),
        (["bench", "--groups", "0"], "argument --groups: expected a divisor of the 64 channels"),
        (["bench", "--repeats", "0"], "argument --repeats: expected at least 1, received 0"),
        (["bench", "--json", "missing/file"], "argument --json: there is no folder missing"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(argv, sentence, capsys):
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(argv)
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert sentence in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "exit_code"),
    [
        (["--help"], 0),
        *(([command, "--help"], 0) for command in COMMANDS),
        (["study", "--epochs", "0"], 2),
        (["bench", "--shapes", "64"], 2),
        (["bench", "no.keras", "--batch-size", "1"], 2),
        (["bench", "ResNet50", "--batch-size", "1", "--memory", "1e9"], 2),
        (["convert", "no.keras", "out.keras"], 2),
        (["convert", "in", "out", "--weight-standardization", "no"], 2),
        (["export", "no.keras", "out"], 2),
        (["export", "in", "out", "--format", "h5"], 2),
    ],
)
def test_help_and_bad_input_are_answered_at_once(argv, exit_code, run_python):
    without = f"import sys; sys.modules |= dict.fromkeys({SLOW_TO_IMPORT})"
    result = run_python(without + COMMAND.format(argv=argv))
    assert result.returncode == exit_code, result.stderr
    assert result.stderr.startswith(f"tfgn {argv[0]}: error: ") == bool(exit_code)


def test_bench_runs_as_the_installed_command(run_python):
    result = run_python(COMMAND.format(argv=SMALL_BENCH))
    assert result.returncode == 0, result.stderr
    assert "ratio" in result.stdout


@pytest.mark.parametrize("argv", [["info"], SMALL_BENCH])
def test_required_fused_ops_that_are_off_are_explained_in_one_sentence(argv, run_python):
    result = run_python(OTHER_TENSORFLOW + COMMAND.format(argv=argv), TFGN_REQUIRE_FUSED="1")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and not result.stdout
    sentence = result.stderr.splitlines()[-1]
    assert sentence.startswith("tfgn: tensorflow-groupnorm ") and "TensorFlow 2.99.1" in sentence


def test_info_says_what_is_installed_and_in_use(capsys):
    assert tfgn_cli.main(["info"]) == 0
    facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    facts = {name: fact.strip() for name, fact in facts.items()}
    assert facts["TensorFlow"] == tf.__version__
    assert facts["Keras"] and facts["Python"] == sys.version.split()[0]
    assert facts["fused ops"] == "on"
    assert facts["XLA (jit_compile=True)"] == "on"
    assert facts["CPU target"] == _library.cpu_target()
    assert facts["built for TensorFlow"] == ", ".join(_library.build_info()["tensorflow_minors"])


def test_info_says_why_the_fused_ops_are_off(run_python):
    result = run_python(OTHER_TENSORFLOW + COMMAND.format(argv=["info", "--json"]))
    facts = json.loads(result.stdout)
    assert facts["fused"] is False and facts["tensorflow"] == "2.99.1"
    assert facts["xla"] is False and facts["xla_reason"] == facts["reason"]
    assert "was built for TensorFlow" in facts["reason"]
    assert "FusedOpsUnavailableWarning" not in result.stderr
    lines = environment.text(facts).splitlines()
    assert "CPU target              unknown: the fused ops are off" in lines
    assert re.match("fused ops +off: tensorflow-groupnorm .* was built for", lines[-1])


def test_info_says_why_xla_is_off(monkeypatch):
    monkeypatch.setattr(_library, "xla_error", lambda: "no kernels.")
    facts = environment.collect()
    assert facts["fused"] is True and facts["xla"] is False
    assert "XLA (jit_compile=True)  off: no kernels." in environment.text(facts).splitlines()


@pytest.mark.parametrize("value", ["0", "1"])
def test_info_says_whether_tensorflow_uses_onednn(value, run_python):
    code = COMMAND.format(argv=["info", "--json"])
    facts = json.loads(run_python(code, TF_ENABLE_ONEDNN_OPTS=value).stdout)
    assert facts["onednn"] is (value == "1")
    line = f"TensorFlow's oneDNN     {'on' if facts['onednn'] else 'off'}"
    assert line in environment.text(facts).splitlines()


def test_info_as_json(capsys):
    assert tfgn_cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["fused"] is True and facts["reason"] is None
    assert facts["xla"] is True and facts["xla_reason"] is None
    assert facts["tensorflow"] == tf.__version__
    assert facts["cuda"] is not None and facts["cores"] >= 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_into_80_columns(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        tfgn_cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_bench_prints_ratios_and_writes_json(tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert tfgn_cli.main([*SMALL_BENCH, "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    rows = {(row["name"], tuple(row["shape"]), row["backward"]): row for row in result["rows"]}
    names = {"GroupNorm", "GroupNorm+SiLU", "GroupNorm+add+ReLU"}
    kernels = {(3, 3, 256, 256), (1, 1, 1024, 2048)}
    assert rows.keys() == {(name, (2, 3, 4), b) for name in names for b in (False, True)} | {
        ("StandardizeWeights", kernel, b) for kernel in kernels for b in (False, True)
    }
    for row in rows.values():
        assert row["stock_ms"] > 0 and row["fused_ms"] > 0
        assert row["ratio"] == pytest.approx(row["stock_ms"] / row["fused_ms"])
        if row["name"] == "StandardizeWeights":
            assert row["batch_norm_ms"] is row["batch_norm_ratio"] is None
        else:
            expected = row["batch_norm_ms"] / row["fused_ms"]
            assert row["batch_norm_ratio"] == pytest.approx(expected)
    output = capsys.readouterr().out
    assert "ratio" in output and "2x3x4" in output and "1x1x1024x2048" in output


def test_bench_compares_what_computes_the_same():
    from tfgn_cli import _timings

    cases = [*_timings._group_norm_cases((2, 5, 8), 2), _timings._standardize_case((3, 3, 4, 6))]
    for case in cases:
        inputs = [tf.random.normal(case.shape) for _ in range(case.inputs)]
        upstream = tf.random.normal(case.shape)
        results = [_timings._graph(f, True)(upstream, *inputs) for f in (case.stock, case.fused)]
        for expected, actual in zip(*map(tf.nest.flatten, results), strict=True):
            tf.debugging.assert_near(expected, actual, rtol=1e-3, atol=1e-4)
        if case.batch_norm is not None:
            batch = [case.batch_norm(*(x + 7.0 for x in inputs)), case.batch_norm(*inputs)]
            # In training mode: the statistics are those of the batch.
            if case.name == "GroupNorm":
                tf.debugging.assert_near(*batch, rtol=1e-3, atol=1e-4)


def test_ctrl_c_is_exit_code_130_and_one_line(capsys, monkeypatch):
    from tfgn_cli import _timings

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_timings, "_time", interrupt)
    assert tfgn_cli.main(SMALL_BENCH) == 130
    assert capsys.readouterr().err == "\ntfgn: interrupted; nothing new is kept\n"


def test_missing_package_of_the_study_is_named(run_python):
    without_scikit_learn = "import sys; sys.modules['sklearn.datasets'] = None"
    result = run_python(without_scikit_learn + COMMAND.format(argv=["study"]))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(
        "tfgn: sklearn.datasets is missing: "
        "pip install markdown-it-py matplotlib pillow rich scikit-learn"
    )


BROKEN_TENSORFLOW = """
import os, sys
os.write(2, b"a line of the log\\n")
raise ImportError("a symbol is missing")
"""


def test_what_tensorflow_logs_is_shown_only_where_it_fails(run_python, tmp_path):
    result = run_python(COMMAND.format(argv=["info"]))
    assert (result.returncode, result.stderr) == (0, "")
    (tmp_path / "tensorflow.py").write_text(BROKEN_TENSORFLOW)
    result = run_python(COMMAND.format(argv=["info"]), PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == "a line of the log\ntfgn: a symbol is missing\n"
