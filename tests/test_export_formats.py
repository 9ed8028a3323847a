"""Portable models in the runtimes of TFLite and ONNX, which know no custom op."""

import itertools
import sys

import export_models
import keras
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from export_runtimes import check
from tensorflow_groupnorm._export import _tflite


def float32_twin(model, build):
    """The same model built in float32, with the weights of another policy."""
    twin = export_models.built(build)
    for ours, theirs in zip(twin.weights, model.weights, strict=True):
        ours.assign(tf.cast(theirs.value, tf.float32))
    return twin


@pytest.mark.parametrize(
    ("build", "format"),
    [
        *itertools.product(
            [
                export_models.sequential,
                export_models.nested_and_shared,
                export_models.subclassed,
                export_models.without_standardization,
            ],
            ["tflite", "onnx"],
        ),
        (export_models.three_dimensional, "tflite"),
        (export_models.channels_first, "onnx"),
    ],
)
def test_file_computes_what_the_model_does(build, format, tmp_path):
    model = export_models.built(build)
    exported = tfgn.export(model, tmp_path / f"model.{format}", True, format)
    assert exported.path.is_file() and list(tmp_path.iterdir()) == [exported.path]
    # Another batch than at the export: its size and unknown axes are free.
    inputs = export_models.batch(model, 5)
    check(model, exported.path, format, inputs)


@pytest.mark.parametrize(
    ("policy", "format"),
    [
        ("mixed_bfloat16", "tflite"),
        ("mixed_bfloat16", "onnx"),
        ("bfloat16", "tflite"),
        ("float64", "onnx"),
    ],
)
def test_any_policy_becomes_float32(policy, format, tmp_path):
    model = export_models.built(small_resnet.build, policy)
    path = tfgn.export(model, tmp_path / "model", True, format).path
    inputs = [tf.constant(small_resnet.IMAGES[:3])]
    check(model, path, format, inputs, twin=float32_twin(model, small_resnet.build))
    assert {layer.compute_dtype for layer in model.layers} >= {policy.removeprefix("mixed_")}


def inverse(x):
    return tf.linalg.inv(tf.linalg.diag(x))[:, 0]


@pytest.mark.parametrize(
    ("format", "function", "sentence"),
    [
        # TensorFlow's own kernel of it could be called from TFLite, as a Flex op.
        ("tflite", inverse, "its builtin ops: it has none for .*MatrixInverse"),
        ("onnx", tf.math.erfinv, "ONNX has no operator for Erfinv of TensorFlow."),
    ],
)
def test_op_that_the_format_lacks_is_named(format, function, sentence, tmp_path):
    inputs = keras.Input((4,))
    x = tfgn.layers.GroupNormalization(2)(inputs)
    model = keras.Model(inputs, keras.layers.Lambda(function, output_shape=(4,))(x))
    with pytest.raises(tfgn.ExportError, match=sentence):
        tfgn.export(model, tmp_path / "model", True, format)
    assert list(tmp_path.iterdir()) == []


def test_file_that_does_not_run_is_not_left(tmp_path, monkeypatch):
    monkeypatch.setattr(_tflite, "convert", lambda saved_model, path: path.write_text("no model"))
    with pytest.raises(tfgn.ExportError, match="What was written does not run: "):
        tfgn.export(small_resnet.build(), tmp_path / "model", True, "tflite")
    assert list(tmp_path.iterdir()) == []


def test_missing_converter_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"needs tf2onnx: pip install 'tensorflow-groupnorm\[ex"):
        tfgn.export(small_resnet.build(), tmp_path / "model.onnx", True, "onnx")
