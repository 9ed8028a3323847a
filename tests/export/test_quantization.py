"""Files with int8 convolutions between float32 normalizations."""

import keras
import numpy as np
import onnx
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
import tfgn_cli
from export_models import built, nested_and_shared, without_standardization
from export_runtimes import RUN, by_name, outputs_by_name
from PIL import Image

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.slow,
]

SAMPLES = np.random.default_rng(0).standard_normal((30, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return built(small_resnet.build)


@pytest.fixture(scope="module", params=["litert", "onnxruntime", "onnx"])
def exported(request, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model"
    return tfgn.export(model, path, target=request.param, int8=SAMPLES)


def int8_kernels(exported):
    """The kernels of an int8 file as `(values, scales)`, scales one for each output channel."""
    if exported.format == "tflite":
        interpreter = tf.lite.Interpreter(str(exported.path))
        details = interpreter.get_tensor_details()
        found = [d for d in details if d["dtype"] == np.int8 and len(d["quantization"]) == 2]
        parameters = [(d, d["quantization_parameters"]["scales"]) for d in found]
        return [(interpreter.get_tensor(d["index"]), s) for d, s in parameters if len(s) > 1]
    graph = onnx.load(exported.path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [
        (arrays[node.input[0]], arrays[node.input[1]])
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in arrays
        and arrays[node.input[0]].dtype == np.int8
    ]


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_standardized_kernels_are_int8_with_a_scale_for_each_channel(model, exported):
    kernel = model.layers[1].kernel
    expected = np.asarray(tfgn.standardize_weights(kernel, model.layers[1].gain))
    # TFLite: [outputs, height, width, inputs]; ONNX: [outputs, inputs, height, width].
    axes = (3, 0, 1, 2) if exported.format == "tflite" else (3, 2, 0, 1)
    expected = expected.transpose(axes)
    (found,) = [
        values * scales.reshape([-1, 1, 1, 1])
        for values, scales in int8_kernels(exported)
        if values.shape == expected.shape and len(scales) == len(expected)
    ]
    # Half of a step of the coarsest scale.
    np.testing.assert_allclose(found, expected, atol=0.51 * np.abs(expected).max() / 127)


def test_int8_file_computes_about_what_the_model_does(model, exported):
    found = exported.quantization
    expected = np.asarray(model(SAMPLES))
    actual = RUN[exported.format](exported.path, by_name(model, [SAMPLES]))["output_0"]
    error = np.sqrt(np.square(actual - expected).sum() / np.square(expected).sum())
    assert 1e-4 < error < 0.05
    np.testing.assert_allclose(found.error, error, rtol=1e-2)
    agreement = (actual.argmax(1) == expected.argmax(1)).mean()
    assert found.agreement == pytest.approx(agreement)
    assert (found.layers, found.samples) == (3, 30)
    assert found.int8_bytes == exported.path.stat().st_size != found.float_bytes
    assert exported.difference < 1e-4  # of the float32 file


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_normalizations_stay_in_float32(exported):
    executed = exported.executed
    assert len(exported.fused) == 2 and not exported.unfused
    if exported.format == "tflite":
        interpreter = tf.lite.Interpreter(str(exported.path))
        dtypes = {d["name"]: d["dtype"] for d in interpreter.get_tensor_details()}
        norms = [dtype for name, dtype in dtypes.items() if "group_normalization" in name]
        assert norms and np.int8 not in norms
        assert executed["QUANTIZE"] == executed["DEQUANTIZE"] == 3
        assert executed["STABLEHLO_COMPOSITE"] == 2
        return
    kind = "InstanceNormalization" if exported.target == "onnxruntime" else "GroupNormalization"
    graph = onnx.load(exported.path).graph
    quantized = {name for node in graph.node for name in node.output if "Linear" in node.op_type}
    norms = [node for node in graph.node if node.op_type == kind]
    assert len(norms) == 2
    assert quantized.isdisjoint(name for node in norms for name in node.input[1:])
    assert executed["QLinearConv"] == 2 and executed["QLinearMatMul"] == 1


def test_several_inputs_by_name(tmp_path):
    model = built(nested_and_shared)
    generator = np.random.default_rng(1)
    data = {
        name: generator.standard_normal((12, 8, 8, 4)).astype("float32")
        for name in ("first", "second")
    }
    exported = tfgn.export(model, tmp_path / "model.onnx", target="onnxruntime", int8=data)
    outputs = outputs_by_name(model(data))
    actual = RUN["onnx"](exported.path, data)
    errors = [
        np.sqrt(np.square(actual[name] - y).sum() / np.square(y).sum())
        for name, y in outputs.items()
    ]
    np.testing.assert_allclose(exported.quantization.error, max(errors), rtol=1e-2)
    assert exported.quantization.agreement is None and exported.quantization.layers == 4


def test_a_fixed_batch_size_is_kept(tmp_path):
    inputs = keras.Input((8, 8, 3), batch_size=4)
    x = tfgn.layers.StandardizedConv2D(8, 3)(inputs)
    x = keras.layers.Reshape((-1,))(tfgn.layers.GroupNormalization(2)(x))
    model = keras.Model(inputs, keras.ops.reshape(x, (4, 288)))
    path = tmp_path / "model.tflite"
    exported = tfgn.export(model, path, target="litert", int8=SAMPLES)
    assert exported.quantization.samples == 28
    actual = RUN["tflite"](path, by_name(model, [SAMPLES[:4]]))["output_0"]
    assert actual.shape == (4, 288)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SAMPLES[:7], "at least 8 samples.*Received: 7"),
        (SAMPLES[:, :4], r"must have the shape \[samples, 8, 8, 3\]. Received: \[30, 4, 8, 3\]"),
        ({"image": SAMPLES}, "must hold the arrays keras_tensor.*They hold image"),
        ({}, "They hold none"),
        (SAMPLES.astype(str), "must be numbers. Received: <U"),
    ],
)
def test_calibration_data_that_does_not_fit_is_refused(data, message, model, tmp_path):
    keras_tensor = model.inputs[0]
    keras_tensor.name = "keras_tensor"
    with pytest.raises(tfgn.ExportError, match=message):
        tfgn.export(model, tmp_path / "model.tflite", target="litert", int8=data)
    assert not list(tmp_path.iterdir())


def test_inputs_of_different_lengths_are_refused(tmp_path):
    data = {name: np.zeros([n, 8, 8, 4]) for name, n in (("first", 8), ("second", 9))}
    with pytest.raises(tfgn.ExportError, match="same number of samples.*'first': 8, 'second': 9"):
        tfgn.export(nested_and_shared(), tmp_path / "m", target="onnx", int8=data)
    with pytest.raises(tfgn.ExportError, match="has 2 inputs: give calibration data as a dict"):
        tfgn.export(nested_and_shared(), tmp_path / "m", target="onnx", int8=data["first"])


@pytest.mark.parametrize("target", ["saved_model", "openvino", "tensorrt"])
def test_other_targets_are_refused(target, model, tmp_path):
    with pytest.raises(ValueError, match=f"int8 is for the targets litert.*target='{target}'"):
        tfgn.export(model, tmp_path / "model", target=target, int8=SAMPLES)


def test_too_large_an_error_writes_no_file(model, tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(tfgn.ExportError, match="int8 file differs too much.*the limit is 1e-05"):
        tfgn.export(model, path, target="onnxruntime", int8=SAMPLES, tolerance=1e-5)
    assert not path.exists()


def test_a_model_without_kernels_is_refused(tmp_path):
    data = np.random.default_rng(0).standard_normal((8, 6, 6, 4))
    path = tmp_path / "model.onnx"
    with pytest.raises(tfgn.ExportError, match="No layer of the model can be executed in int8"):
        tfgn.export(built(without_standardization), path, target="onnxruntime", int8=data)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--int8"], "argument --int8: it needs the ranges of a folder of images or an .npz file"),
        (["--calibration", "x.npz"], "argument --calibration: it is for --int8"),
        (["--int8", "--calibration", "."], "it needs --target litert, onnx, onnxruntime"),
        (
            ["--int8", "--calibration", "no.npz", "--target", "litert"],
            "argument --calibration: there is no file no.npz",
        ),
    ],
)
def test_bad_options_are_one_sentence(options, sentence, tmp_path, capsys):
    file = tmp_path / "model.keras"
    file.touch()
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(["export", str(file), str(tmp_path / "out"), *options])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and sentence in error and error.count("\n") == 1


def test_command_line_calibrates_on_a_folder_of_images(model, tmp_path, capsys):
    images = tmp_path / "images"
    argv = ["export", str(tmp_path / "model.keras"), str(tmp_path / "model.onnx")]
    argv += ["--target", "onnxruntime", "--int8", "--calibration", str(images)]
    argv += ["--pixels", "-1", "1"]
    model.save(tmp_path / "model.keras")
    images.mkdir()
    assert tfgn_cli.main(argv) == 1
    assert f"There is no image (.png, .jpg, .jpeg) in {images}" in capsys.readouterr().err
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (9, 12, 3), np.uint8)
        folder = images / f"class{i % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    assert tfgn_cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert "layers in int8: 3" in printed
    assert "int8 error on the 10 calibration samples: " in printed
    assert "same top class as in float32, on these samples: " in printed
    assert "in float32, largest difference from the model on the first calibration" in printed
    assert "MB in float32, " in printed and "ONNX Runtime executes " in printed
