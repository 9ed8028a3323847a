"""`tfgn export`."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import onnxruntime
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
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
        (["{file}", "out", "--target", "h5"], "invalid choice: 'h5'"),
        (["{file}", "out", "--target", "onnx", "--portable"], "replaces --portable and --format"),
        (
            ["{file}", "out", "--target", "tensorrt", "--benchmark"],
            "tensorrt is not run in TensorRT",
        ),
        (["{file}", "{file}"], "exists already; --overwrite replaces it"),
        (["{file}", "out", "--tolerance", "-1"], "expected a number >= 0, received -1.0"),
        (["{file}", "out", "--example", "no.npy"], "argument --example: there is no file no.npy"),
        (["{file}", "out", "--example", "{file}"], "expected an .npy or .npz file, received"),
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
    sentence = f"tfgn: {file} is not a model that Keras can load: it is no .keras archive\n"
    assert error == sentence


CUSTOM_LAYER = """
import keras
@keras.saving.register_keras_serializable("of_the_user")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def test_modules_of_custom_layers_are_imported(tmp_path, capsys, monkeypatch):
    (tmp_path / "layer_of_this_export.py").write_text(CUSTOM_LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    code = "import keras, layer_of_this_export as m; x = keras.Input((4,));"
    code += f"keras.Model(x, m.Doubled()(x)).save({str(tmp_path / 'in.keras')!r})"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    argv = ["export", str(tmp_path / "in.keras"), str(tmp_path / "out"), "--portable"]
    assert tfgn_cli.main(argv) == 1
    assert "name the module that registers its 'Doubled' with --import" in capsys.readouterr().err
    assert tfgn_cli.main([*argv, "--import", "layer_of_this_export"]) == 0


def test_failed_check_is_one_sentence(model_file, tmp_path, capsys):
    argv = ["export", str(model_file), str(tmp_path / "out"), "--portable", "--tolerance", "0"]
    assert tfgn_cli.main(argv) == 1
    assert "tfgn: The export differs from the model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("batch.npy", b"no array", "batch.npy cannot be read: "),
        ("batch.npz", b"no archive", "batch.npz cannot be read: "),
        ("batch.npy", np.array(["text"], dtype=object), "with np.array(texts, dtype=str)"),
    ],
)
def test_example_that_cannot_be_read_is_one_sentence(name, content, sentence, tmp_path, capsys):
    model, example = tmp_path / "model.keras", tmp_path / name
    model.touch()
    if isinstance(content, bytes):
        example.write_bytes(content)
    else:
        np.save(example, content, allow_pickle=True)
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(["export", str(model), str(tmp_path / "out"), "--example", str(example)])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("tfgn export: error: argument --example: ") and sentence in error
    assert error.count("\n") == 1


def test_model_of_strings_is_checked_on_the_example(tmp_path, capsys):
    words = keras.Input((), dtype="string", name="word")
    scales = keras.Input((4,), name="scales")
    indices = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(words)
    x = tfgn.layers.GroupNormalization(1)(keras.layers.Dense(4)(indices) * scales)
    keras.Model({"word": words, "scales": scales}, x).save(tmp_path / "model.keras")
    argv = ["export", str(tmp_path / "model.keras"), str(tmp_path / "out"), "--portable"]
    assert tfgn_cli.main(argv) == 1
    assert "as `example` (--example FILE on the command line)" in capsys.readouterr().err

    example = str(tmp_path / "batch.npz")
    np.savez(example, ["a", "c"], np.ones([2, 4]))
    assert tfgn_cli.main([*argv, "--example", example]) == 1
    error = capsys.readouterr().err
    assert "must hold the arrays scales, word" in error and "It holds arr_0, arr_1." in error

    np.save(tmp_path / "batch.npy", np.ones([2, 4]))
    assert tfgn_cli.main([*argv, "--example", str(tmp_path / "batch.npy")]) == 1
    assert "give an .npz file with the arrays scales, word" in capsys.readouterr().err

    np.savez(example, word=["a", "c"], scales=np.ones([2, 4]))
    assert tfgn_cli.main([*argv, "--example", example]) == 0
    assert "largest difference from the model on the example: " in capsys.readouterr().out


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "executed"),
    [
        ("litert", "TFLite executes .*1 STABLEHLO_COMPOSITE"),
        ("onnxruntime", "ONNX Runtime executes .*1 InstanceNormalization"),
        ("openvino", "OpenVINO executes .*1 MVN"),
        ("tensorrt", "not run in TensorRT: .*run in ONNX Runtime"),
    ],
)
def test_target_names_what_is_not_fused_and_its_latency(target, executed, tmp_path, capsys):
    x = keras.Input((4, 4, 6))
    y = tfgn.layers.GroupNormalization(2, name="fused")(x)
    y = keras.layers.GroupNormalization(2, name="of_keras")(y)
    keras.Model(x, y).save(tmp_path / "model.keras")
    argv = ["export", str(tmp_path / "model.keras"), str(tmp_path / "model.onnx")]
    benchmark = [] if target == "tensorrt" else ["--benchmark"]
    assert tfgn_cli.main([*argv, "--target", target, *benchmark]) == 0
    printed = capsys.readouterr().out
    assert "normalizations that are one node: 1 of 2\n  of_keras is not: it is a layer" in printed
    assert re.search(executed, printed)
    times = re.findall(r"latency of (\w+): (\d+\.\d+) ms", printed)
    assert [name for name, _ in times] == ([target, "saved_model"] if benchmark else [])
    assert all(float(milliseconds) > 0 for _, milliseconds in times)


def test_missing_runtime_is_one_sentence(model_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    argv = ["export", str(model_file), str(tmp_path / "out"), "--target", "openvino"]
    assert tfgn_cli.main(argv) == 1
    error = capsys.readouterr().err
    assert "needs openvino: pip install 'openvino>=2026.0' 'tf2onnx>=1.17'" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_latency_of_a_model_that_insists_on_its_batch_size(tmp_path, capsys):
    x = keras.Input((8, 4), batch_size=3)
    y = tfgn.layers.GroupNormalization(2)(keras.layers.Flatten()(x))
    keras.Model(x, keras.ops.reshape(y, (3, 2, 16))).save(tmp_path / "model.keras")
    argv = ["export", str(tmp_path / "model.keras"), str(tmp_path / "model"), "--benchmark"]
    assert tfgn_cli.main(argv) == 0
    assert capsys.readouterr().out.count("latency of saved_model: ") == 1


@pytest.mark.filterwarnings("ignore:The export is not compared with the model")
def test_latency_of_a_model_that_does_not_run_here_is_one_sentence(tmp_path, capsys):
    words = keras.Input((3,), dtype="string")
    indices = keras.layers.StringLookup(vocabulary=["a"])(words)
    keras.Model(words, keras.layers.Embedding(3, 4)(indices)).save(tmp_path / "model.keras")
    argv = ["export", str(tmp_path / "model.keras"), str(tmp_path / "model"), "--benchmark"]
    assert tfgn_cli.main(argv) == 1
    error = capsys.readouterr().err
    assert "tfgn: The latency is not measured. No random batch can be made" in error


def test_a_full_disk_is_one_sentence(model_file, tmp_path, capsys, monkeypatch):
    def write_out(*_, **__):
        message = "{{function_node SaveV2}} model/variables; No space left on device [Op:SaveV2]"
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(type(keras.export.ExportArchive()), "write_out", write_out)
    assert tfgn_cli.main(["export", str(model_file), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error == "tfgn: The SavedModel cannot be written: No space left on device\n"
    assert not list(tmp_path.glob("out*"))
