"""Which layers become files that compute what the model does."""

import export_layers
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from export_runtimes import RUN, check
from tfgn_base.names import TARGETS

pytestmark = pytest.mark.slow


def inputs_of(model, batch):
    """Random inputs as positional arguments; unknown sizes are 6, integers 0 or 1."""
    generator = np.random.default_rng(3)

    def random(tensor):
        shape = [batch, *(6 if size is None else size for size in tensor.shape[1:])]
        if tensor.dtype.startswith("float"):
            return tf.constant(generator.standard_normal(shape), tensor.dtype)
        return tf.constant(generator.integers(0, 2, shape), tensor.dtype)

    tensors = [random(tensor) for tensor in model.inputs]
    return [tensors] if len(tensors) > 1 else tensors


# ONNX Runtime computes the variance of a GroupNormalization as E[x^2] - E[x]^2.
TOLERANCES = {"onnx": 1e-4}


#: Each layer runs by default for one of these, in turns: each export takes a second or two.
ROTATION = ("litert", "onnxruntime", "onnx")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(name, target, marks=[pytest.mark.thorough] * (index % 3 != turn))
        for index, name in enumerate(export_layers.BUILD)
        for turn, target in enumerate(ROTATION)
    ],
)
def test_layer_is_exported_or_refused_in_a_sentence(name, target, tmp_path):
    model = export_layers.built(name)
    format = TARGETS[target]
    sentence = export_layers.REFUSED.get((name, format))
    if sentence:
        with pytest.raises(tfgn.ExportError, match=sentence) as error:
            tfgn.export(model, tmp_path / "model", target=target)
        assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
        return
    path = tfgn.export(model, tmp_path / "model.file", target=target).path
    # Another batch than at the export: its size and unknown axes are free.
    inputs = inputs_of(model, 3)
    check(model, path, format, inputs, TOLERANCES.get(target, 1e-5))
    if target == "onnxruntime" and (name, "openvino") not in export_layers.REFUSED:
        # The nodes of the target openvino are the same.
        check(model, path.rename(tmp_path / "model.onnx"), "openvino", inputs)


@pytest.mark.parametrize(
    "name", [name for name, runtime in export_layers.REFUSED if runtime == "openvino"]
)
def test_layer_that_openvino_does_not_run_is_refused_in_a_sentence(name, tmp_path):
    sentence = export_layers.REFUSED[name, "openvino"]
    with pytest.raises(tfgn.ExportError, match=sentence) as error:
        tfgn.export(export_layers.built(name), tmp_path / "model.onnx", target="openvino")
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


KINDS = ("LSTM", "GRU, both ways, masked", "ConvLSTM2D", "use_mask, images", "Conv3D, groups")


@pytest.mark.parametrize("target", ["saved_model", "saved_model_portable", "tensorrt"])
@pytest.mark.parametrize("name", KINDS)
def test_recurrent_masked_and_3d_models_for_the_other_targets(name, target, tmp_path):
    model = export_layers.built(name)
    path = tfgn.export(model, tmp_path / "model", target=target).path
    check(model, path, TARGETS[target], inputs_of(model, 3))


@pytest.mark.parametrize("target", ["onnx", "openvino", "tensorrt"])
def test_several_inputs_and_outputs_of_any_size(target, tmp_path):
    image, mask = (
        keras.Input((None, None, 3), name="image"),
        keras.Input((None, None, 1), name="mask"),
    )
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    y = tfgn.layers.GroupNormalization(2, activation="relu")(x)
    model = keras.Model({"image": image, "mask": mask}, {"features": y, "masked": [y * mask, x]})
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target)
    assert len(exported.fused) == 1 and exported.unfused == {}
    rng = np.random.default_rng(0)
    feed = {
        "image": rng.standard_normal((3, 5, 7, 3)).astype("float32"),
        "mask": rng.integers(0, 2, (3, 5, 7, 1)).astype("float32"),
    }
    actual = RUN["openvino" if target == "openvino" else "onnx"](exported.path, feed)
    expected = model(feed)
    for name, y in (("features", expected["features"]), ("masked_0", expected["masked"][0])):
        np.testing.assert_allclose(actual[name], y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["LSTM", "GRU, both ways, masked", "ConvLSTM2D"])
def test_recurrent_layers_become_tflite_with_a_fixed_batch_size(name, tmp_path):
    model = export_layers.built(name)
    signature = [tf.TensorSpec([3, *model.inputs[0].shape[1:]], name=model.inputs[0].name)]
    path = tfgn.export(model, tmp_path / "model", True, "tflite", input_signature=signature).path
    check(model, path, "tflite", inputs_of(model, 3))
