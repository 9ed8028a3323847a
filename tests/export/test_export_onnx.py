"""The nodes of ONNX files, and what runtimes execute of them."""

from collections import Counter

import export_models
import keras
import numpy as np
import onnx
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from export_runtimes import check
from tensorflow_groupnorm._export import openvino

layers = tfgn.layers
KINDS = {
    "onnx": "GroupNormalization",
    "onnxruntime": "InstanceNormalization",
    "openvino": "InstanceNormalization",
    "tensorrt": "InstanceNormalization",
}
OPSETS = {"onnx": 21, "onnxruntime": 21, "openvino": 18, "tensorrt": 18}
#: The runtimes of the tests, which are keys of `export_runtimes.RUN`.
RUNTIMES = {target: "openvino" if target == "openvino" else "onnx" for target in KINDS}
every = pytest.mark.parametrize("target", KINDS)


def of_groups(target):
    """Whether the node of a target normalizes groups as channels, without parameters."""
    return KINDS[target] == "InstanceNormalization"


def nodes(path):
    """The numbers of nodes of a file, by their types."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def residual_block(x, activation):
    y = layers.GroupNormalization(2, activation=activation)(x)
    y = keras.layers.Conv2D(4, 3, padding="same")(y)
    y = layers.GroupNormalization(2, activation=activation)(y, residual=x)
    return keras.layers.Conv2D(4, 3, padding="same")(y)


@every
@pytest.mark.parametrize(
    ("activation", "of_activation"),
    [(None, {}), ("relu", {"Relu": 4}), ("silu", {"Sigmoid": 4, "Mul": 4})],
)
def test_convolutions_and_norms_are_all_in_nchw(activation, of_activation, target, tmp_path):
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(4, 3, padding="same")(x)
    y = residual_block(residual_block(y, activation), activation)
    model = export_models.built(lambda: keras.Model(x, y))
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target)
    found = nodes(exported.path)
    affine = {"Reshape": 8, "Mul": 4, "Add": 6} if of_groups(target) else {"Add": 2}
    assert found == Counter({KINDS[target]: 4, "Conv": 5, "Transpose": 2}) + Counter(
        affine
    ) + Counter(of_activation)
    (opset,) = (o.version for o in onnx.load(exported.path).opset_import if not o.domain)
    assert opset == OPSETS[target]
    assert len(exported.fused) == 4 and exported.unfused == {}
    check(model, exported.path, RUNTIMES[target], [random(3, 8, 8, 3)], 1e-4)


@pytest.mark.parametrize(
    ("target", "runtime", "kind"),
    [("onnxruntime", "ONNX Runtime", "InstanceNormalization"), ("openvino", "OpenVINO", "MVN")],
)
def test_runtime_executes_a_node_for_each_norm(target, runtime, kind, tmp_path):
    model = export_models.built(small_resnet.build)
    norms = [x.name for x in model.layers if isinstance(x, layers.GroupNormalization)]
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target)
    assert sorted(exported.fused) == sorted(norms) and exported.unfused == {}
    assert exported.executed[kind] == len(norms)
    assert (exported.target, exported.runtime, exported.note) == (target, runtime, "")


def test_tensorrt_is_not_said_to_have_run(tmp_path):
    model = export_models.built(small_resnet.build)
    exported = tfgn.export(model, tmp_path / "model.onnx", target="tensorrt")
    assert exported.note.startswith("not run in TensorRT") and exported.runtime == "ONNX Runtime"
    assert exported.executed == {} and exported.difference < 1e-5


def test_operator_that_tensorrt_lacks_is_named(tmp_path):
    x = keras.Input((4,))
    y = keras.layers.Lambda(lambda x: tf.cast(tf.bitwise.invert(tf.cast(x, "int32")), "float32"))(x)
    model = keras.Model(x, layers.GroupNormalization(2)(y))
    tfgn.export(model, tmp_path / "model.onnx", target="onnxruntime").path.unlink()
    with pytest.raises(tfgn.ExportError, match="TensorRT's ONNX parser has no BitwiseNot[.]"):
        tfgn.export(model, tmp_path / "model.onnx", target="tensorrt")
    assert list(tmp_path.iterdir()) == []


def test_norm_that_openvino_does_not_execute_as_one_is_named(tmp_path, monkeypatch):
    model = export_models.built(small_resnet.build)
    monkeypatch.setattr(openvino, "_NORMALIZATION", "RMS")
    exported = tfgn.export(model, tmp_path / "model.onnx", target="openvino")
    (reason,) = set(exported.unfused.values())
    assert (
        exported.fused == () and reason == "OpenVINO executes no InstanceNormalization of its name"
    )


@every
@pytest.mark.parametrize(
    ("shape", "axis"), [((6,), -1), ((5, 6), -1), ((6, 5), 1), ((2, 3, 4, 6), -1), ((4, 6, 3), 2)]
)
def test_every_rank_and_axis(shape, axis, target, tmp_path):
    x = keras.Input(shape)
    model = export_models.built(
        lambda: keras.Model(x, layers.GroupNormalization(2, axis=axis, activation="silu")(x))
    )
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target)
    assert nodes(exported.path)[KINDS[target]] == len(exported.fused) == 1
    check(model, exported.path, RUNTIMES[target], [random(3, *shape)], 1e-4)


@every
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_absent_parameters(scale, center, target, tmp_path):
    x = keras.Input((4, 4, 6))
    model = export_models.built(
        lambda: keras.Model(x, layers.GroupNormalization(2, scale=scale, center=center)(x))
    )
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target)
    found = nodes(exported.path)
    in_nodes = of_groups(target)
    assert (found["Mul"], found["Add"]) == (scale * in_nodes, center * in_nodes)
    check(model, exported.path, RUNTIMES[target], [random(3, 4, 4, 6)], 1e-4)


@every
def test_parameters_at_their_initial_values(target, tmp_path):
    x = keras.Input((6,))
    model = keras.Model(x, layers.GroupNormalization(2)(x))
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target)
    assert len(exported.fused) == 1 and exported.unfused == {}


@every
def test_parameters_per_sample_follow_the_norm(target, tmp_path):
    x, condition = keras.Input((4, 4, 6)), keras.Input((6,))
    model = export_models.built(
        lambda: keras.Model(
            [x, condition],
            layers.GroupNormalization(2)(x, scale=condition, shift=2 * condition),
        )
    )
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target)
    assert nodes(exported.path)[KINDS[target]] == len(exported.fused) == 1
    check(model, exported.path, RUNTIMES[target], [[random(3, 4, 4, 6), random(3, 6)]], 1e-4)


def test_3d_convolution_in_groups_behind_a_norm(tmp_path):
    x = keras.Input((4, 4, 4, 4))

    def build():
        y = layers.GroupNormalization(2)(x)
        return keras.Model(x, keras.layers.Conv3D(4, 3, groups=2, padding="same")(y))

    model = export_models.built(build)
    exported = tfgn.export(model, tmp_path / "model.onnx", target="onnx")
    check(model, exported.path, "onnx", [random(3, 4, 4, 4, 4)], 1e-4)


def test_unfused_norms_are_named_with_the_reason(tmp_path):
    x, mask = keras.Input((4, 4, 6)), keras.Input((4, 4), dtype="bool")
    y = layers.GroupNormalization(2, name="fused")(x)
    inside = [keras.Input((4, 4, 6)), layers.GroupNormalization(3, name="within")]
    y = keras.Sequential(inside, name="block")(y)
    y = keras.layers.GroupNormalization(2, name="of_keras")(y)
    y = layers.GroupNormalization(2, use_mask=True, name="masked")(y, mask=mask)
    model = keras.Model([x, mask], y)
    exported = tfgn.export(model, tmp_path / "model.onnx", target="onnx")
    assert sorted(exported.fused) == ["block/within", "fused"]
    assert exported.unfused == {
        "masked": "it has a mask, or was written in stock ops",
        "of_keras": "it is a layer of Keras, which tensorflow_groupnorm.convert fuses",
    }


def test_norm_that_is_scaled_by_one_plus_a_tensor_runs_in_openvino(tmp_path):
    x, scale = keras.Input((4, 4, 6), name="x"), keras.Input((1, 1, 6), name="scale")
    model = keras.Model([x, scale], layers.GroupNormalization(2)(x) * (1 + scale))
    # Of known sizes, OpenVINO 2026.4 ends the process if the norm is a GroupNormalization.
    specs = [tf.TensorSpec([1, *y.shape[1:]], name=y.name) for y in model.inputs]
    path = tmp_path / "model.onnx"
    exported = tfgn.export(model, path, target="openvino", input_signature=[specs])
    assert len(exported.fused) == 1 and exported.difference < 1e-5


@every
def test_any_number_of_channels(target, tmp_path):
    class Model(keras.Model):
        def call(self, x):
            return tfgn.group_norm(x, groups=2, activation="relu")

    model = Model()
    model(random(1, 4, 6))
    signature = [tf.TensorSpec([None, 4, None], name="args_0")]
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target, input_signature=signature)
    assert nodes(exported.path)["InstanceNormalization"] == 1
    # OpenVINO executes either kind of node as one.
    assert len(exported.unfused) == (target == "onnx")
    check(model, exported.path, RUNTIMES[target], [random(3, 4, 10)], 1e-4)


@every
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes(dtype, target, tmp_path):
    def normalize(x):
        return tf.cast(tfgn.group_norm(tf.cast(x, dtype), groups=2), "float32")

    x = keras.Input((4, 6))
    model = keras.Model(x, keras.layers.Lambda(normalize, output_shape=(4, 6))(x))
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target, tolerance=1e-2)
    found = nodes(exported.path)
    is_double = dtype == "float64" and OPSETS[target] == 21  # The others compute in float32.
    assert found["GroupNormalization" if is_double else KINDS[target]] == 1
    assert len(exported.unfused) == (is_double and target == "onnxruntime")


@every
def test_norms_in_loops(target, tmp_path):
    def loop(x):
        step = lambda i, x: (i + 1, tfgn.group_norm(1.1 * x, groups=2))  # noqa: E731
        return tf.while_loop(lambda i, x: i < 3, step, [0, x])[1]

    x = keras.Input((4, 6))
    model = keras.Model(x, keras.layers.Lambda(loop, output_shape=(4, 6), name="loop")(x))
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target)
    if target == "openvino":
        reason = "it is in a loop or a branch, of which OpenVINO tells nothing"
        assert exported.fused == () and exported.unfused == {"loop": reason}
    else:
        assert len(exported.fused) == 1 and exported.unfused == {}
    check(model, exported.path, RUNTIMES[target], [random(3, 4, 6)], 1e-4)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_means_that_are_large_stay_accurate(target, tmp_path):
    x = keras.Input((8, 8, 6))
    model = keras.Model(x, layers.GroupNormalization(2)(x))
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target)
    check(model, exported.path, RUNTIMES[target], [1000 + random(3, 8, 8, 6)], 1e-3)


def test_raw_op_is_written_unless_its_statistics_are_used(tmp_path):
    def raw(x):
        return tfgn.raw_ops.GroupNorm(x=x, gamma=[], beta=[], side_input=[], groups=2)

    x = keras.Input((4, 6))
    for function, written in ((lambda x: raw(x).y, True), (lambda x: x - raw(x).mean[0, 0], False)):
        model = keras.Model(x, keras.layers.Lambda(function, output_shape=(4, 6))(x))
        if written:
            exported = tfgn.export(model, tmp_path / "model.onnx", target="onnx")
            assert nodes(exported.path)["GroupNormalization"] == 1
            exported.path.unlink()
        else:
            with pytest.raises(tfgn.ExportError, match="uses the mean or rstd of .*/GroupNorm"):
                tfgn.export(model, tmp_path / "model.onnx", target="onnx")
    assert list(tmp_path.iterdir()) == []
