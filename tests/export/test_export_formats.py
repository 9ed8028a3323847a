"""Portable models in the runtimes of TFLite and ONNX, which know no custom op."""

import itertools
import sys

import export_models
import keras
import numpy as np
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from export_runtimes import RUN, by_name, check
from tensorflow_groupnorm._export import tflite

pytestmark = pytest.mark.slow


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


@keras.saving.register_keras_serializable("export_tests")
class Block(keras.layers.Layer):
    """A convolution, a norm and a larger image, to be converted inside."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.conv = keras.layers.Conv2D(filters, 3, padding="same")
        self.norm = keras.layers.BatchNormalization()
        self.up = keras.layers.UpSampling2D()

    def call(self, inputs, training=None):
        return self.up(keras.ops.relu(self.norm(self.conv(inputs), training=training)))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable("export_tests")
class Network(keras.Model):
    """Two of them, in a subclassed model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Block(8), Block(4)

    def call(self, inputs, training=None):
        return self.second(self.first(inputs, training=training), training=training)

    def get_config(self):
        return {"name": self.name}


def of_blocks():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, Block(4)(Block(8)(inputs)))


def subclassed_of_blocks():
    network = Network()
    network(tf.zeros([1, 8, 8, 3]))
    return network


@pytest.mark.parametrize("format", ["saved_model", "tflite", "onnx"])
@pytest.mark.parametrize("build", [of_blocks, subclassed_of_blocks])
def test_converted_composite_layers_are_exported(build, format, tmp_path, capsys):
    model = tfgn.convert(build())
    inputs = tf.random.normal([3, 8, 8, 3])
    model(inputs)
    path = tfgn.export(model, tmp_path / "model", True, format).path
    check(model, path, format, [inputs])


@pytest.mark.parametrize("format", ["saved_model", "tflite", "onnx"])
def test_rematerialization_is_left_to_training(format, tmp_path):
    with keras.RematScope("full"):
        model = small_resnet.build()
        model = keras.Sequential([keras.Input((8, 8, 3)), model])
    path = tfgn.export(model, tmp_path / "model", True, format).path
    assert {layer._remat_mode.mode for layer in model.layers} == {"full"}
    actual = RUN[format](path, by_name(model, [tf.constant(small_resnet.IMAGES)]))
    expected = small_resnet.build()(small_resnet.IMAGES)
    np.testing.assert_allclose(actual["output_0"], expected, atol=1e-5)


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
    def convert(saved_model, path):
        path.write_text("no model")
        return tflite.Converted([], {})

    monkeypatch.setattr(tflite, "convert", convert)
    with pytest.raises(tfgn.ExportError, match="The exported model does not run: "):
        tfgn.export(small_resnet.build(), tmp_path / "model", True, "tflite")
    assert list(tmp_path.iterdir()) == []


def test_missing_converter_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"needs tf2onnx: pip install .*tf2onnx>="):
        tfgn.export(small_resnet.build(), tmp_path / "model.onnx", True, "onnx")
