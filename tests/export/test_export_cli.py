"""`tfgn export`."""

import numpy as np
import onnxruntime
import pytest
import small_resnet
import tfgn_cli

# Keras saves variables in a way that NumPy warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COMMAND = """
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
import tfgn_cli
sys.argv = ["tfgn", "export", *{argv!r}]
sys.exit(tfgn_cli.main())
"""


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.keras"
    small_resnet.build().save(path)
    return path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["missing.keras", "out"], "argument MODEL: there is no file missing.keras"),
        (["{file}", "out", "--format", "onnx"], "argument --format: onnx needs --portable"),
        (["{file}", "out", "--format", "h5"], "invalid choice: 'h5'"),
        (["{file}", "{file}"], "exists already; --overwrite replaces it"),
        (["{file}", "out", "--tolerance", "-1"], "expected a number >= 0, received -1.0"),
        (["{file}"], "the following arguments are required: OUT"),
    ],
)
def test_bad_input_is_one_sentence(options, sentence, tmp_path, capsys):
    file = tmp_path / "model.keras"
    file.touch()
    argv = [option.format(file=file) for option in options]
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(["export", *argv])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("tfgn export: error: ") and sentence in error and error.count("\n") == 1


def test_help_and_bad_input_do_not_wait_for_tensorflow(run_python):
    assert "--portable" in run_python(COMMAND.format(argv=["--help"])).stdout
    result = run_python(COMMAND.format(argv=["missing.keras", "out"]))
    assert result.returncode == 2 and result.stderr.count("\n") == 1


def test_file_that_is_no_model_is_one_sentence(tmp_path, capsys):
    file = tmp_path / "model.keras"
    file.write_text("no model")
    assert tfgn_cli.main(["export", str(file), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"{file} does not load: " in error and error.count("\n") == 1


def test_failed_check_is_one_sentence(model_file, tmp_path, capsys):
    argv = ["export", str(model_file), str(tmp_path / "out"), "--portable", "--tolerance", "0"]
    assert tfgn_cli.main(argv) == 1
    assert "tfgn: What was written differs from the model" in capsys.readouterr().err


def test_model_file_becomes_onnx(model_file, tmp_path, capsys):
    out = tmp_path / "out" / "model.onnx"
    argv = ["export", str(model_file), str(out), "--portable", "--format", "onnx"]
    assert tfgn_cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert f"wrote {out}" in printed and "custom ops: none" in printed
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: small_resnet.IMAGES})
    expected = small_resnet.build()(small_resnet.IMAGES).numpy()
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())
