"""What `keras.Model.export` writes of models with fused layers."""

import export_models
import numpy as np
import onnxruntime
import pytest
import small_resnet
import tensorflow as tf

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
    # Keras looks for np.object, which tf2onnx uses.
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning"),
    pytest.mark.slow,
]


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def run_litert(path, images):
    signature = tf.lite.Interpreter(str(path)).get_signature_runner("serving_default")
    (name,) = signature.get_input_details()
    (y,) = signature(**{name: images}).values()
    return y


def custom_ops(model):
    graph = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec([2, 8, 8, 3])).graph
    return {op.type for op in graph.get_operations()} & {"GroupNorm", "StandardizeWeights"}


@pytest.mark.parametrize(("format", "run"), [("onnx", run_onnx), ("litert", run_litert)])
def test_converters_of_keras_write_what_their_runtimes_run(format, run, tmp_path):
    model = export_models.built(small_resnet.build)
    images = small_resnet.IMAGES[:1]
    expected = model.predict(images, verbose=0)  # Keras traces the fused ops first.
    path = tmp_path / f"model.{'tflite' if format == 'litert' else format}"
    model.export(path, format=format, verbose=False)
    np.testing.assert_allclose(run(path, images), expected, atol=1e-5 * np.abs(expected).max())
    assert custom_ops(model) == {"GroupNorm", "StandardizeWeights"}


def test_saved_model_of_keras_keeps_the_fused_ops(tmp_path):
    model = export_models.built(small_resnet.build)
    model.export(tmp_path / "model", verbose=False)
    content = (tmp_path / "model" / "saved_model.pb").read_bytes()
    assert b"GroupNorm" in content and b"StandardizeWeights" in content
    assert b"stock_group_norm" not in content
