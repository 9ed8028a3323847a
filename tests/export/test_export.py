"""SavedModels that `tfgn.export` writes: what is in them and what they compute."""

import dataclasses
import itertools
import json
import subprocess
import sys

import export_models
import keras
import numpy as np
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from paths import SUPPORT, python_path
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_groupnorm import stock

# The order of sums differs; what half precision rounds is amplified by the layers behind.
TOLERANCES = {"float32": 1e-5, "float64": 1e-6, "mixed_bfloat16": 5e-2}
IMAGES = small_resnet.IMAGES[:3]


def graphs(path):
    """Pairs of a name and the nodes of a SavedModel's graph and of each of its functions."""
    saved_model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph = saved_model.meta_graphs[0].graph_def
    functions = [
        (function.signature.name, function.node_def) for function in graph.library.function
    ]
    return [("", graph.node), *functions]


def kinds(path):
    return {node.op for _, nodes in graphs(path) for node in nodes}


def folded_kernels(path):
    (serve,) = (nodes for name, nodes in graphs(path) if name.startswith("__inference_serve"))
    constants = [node for node in serve if node.op == "Const" and "folded_kernel" in node.name]
    return [tf.make_ndarray(node.attr["value"].tensor).shape for node in constants]


def relative_difference(expected, actual):
    expected, actual = (np.asarray(tf.cast(x, tf.float64)) for x in (expected, actual))
    assert expected.shape == actual.shape
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("build", "portable"),
    [
        *itertools.product(
            [
                export_models.sequential,
                export_models.nested_and_shared,
                export_models.subclassed,
                export_models.channels_first,
            ],
            [False, True],
        ),
        (export_models.three_dimensional, False),
        (export_models.without_standardization, True),
    ],
)
@pytest.mark.filterwarnings("ignore:TensorFlow runs the exported model on this machine only under")
def test_exported_model_computes_what_the_model_does(build, portable, tmp_path):
    model = export_models.built(build)
    exported = tfgn.export(model, tmp_path / "model", portable)
    loaded = tf.saved_model.load(exported.path)
    inputs = export_models.batch(model, 5)
    # Without oneDNN, TensorFlow has a convolution of channels_first on CPUs only under XLA.
    jit = build == export_models.channels_first
    expected = tf.function(lambda: model(*inputs), jit_compile=jit)()
    actual = tf.function(lambda: loaded.serve(*inputs), jit_compile=jit)()
    tf.nest.assert_same_structure(expected, actual)
    for y, served in zip(tf.nest.flatten(expected), tf.nest.flatten(actual), strict=True):
        assert relative_difference(y, served) < TOLERANCES["float32"]
    custom = kinds(exported.path) & {"GroupNorm", "StandardizeWeights"}
    assert custom == (set() if portable else {"GroupNorm"}) == set(exported.custom_ops)


@pytest.mark.parametrize("portable", [False, True], ids=["fused", "portable"])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_exported_model_keeps_its_dtype_policy(policy, portable, tmp_path):
    model = export_models.built(small_resnet.build, policy)
    exported = tfgn.export(model, tmp_path / "model", portable)
    loaded = tf.saved_model.load(exported.path)
    served = loaded.serve(IMAGES)
    assert relative_difference(model(IMAGES), served) <= TOLERANCES[policy]
    convolutions = {
        tf.as_dtype(node.attr["T"].type).name
        for _, nodes in graphs(exported.path)
        for node in nodes
        if node.op == "Conv2D"
    }
    assert convolutions == {policy.removeprefix("mixed_")}


def test_signature_is_that_of_keras_export(tmp_path):
    model = export_models.built(export_models.nested_and_shared)
    model.export(tmp_path / "keras", verbose=False)
    tfgn.export(model, tmp_path / "ours")
    ours, keras_ = (
        tf.saved_model.load(tmp_path / name).signatures["serving_default"]
        for name in ("ours", "keras")
    )
    assert ours.structured_input_signature == keras_.structured_input_signature
    assert ours.structured_outputs == keras_.structured_outputs


def test_kernels_are_constants_once_and_the_variables_they_come_from_are_left_out(tmp_path):
    model = export_models.built(export_models.nested_and_shared)
    tfgn.export(model, tmp_path / "model")
    # Both layers are called twice.
    assert sorted(folded_kernels(tmp_path / "model")) == [(3, 3, 4, 4), (4, 3)]
    saved = dict(tf.train.list_variables(str(tmp_path / "model" / "variables" / "variables")))
    sizes = sorted(tuple(size) for name, size in saved.items() if name.endswith("VARIABLE_VALUE"))
    # Biases, scale and shift.
    assert sizes == [(3,), (4,), (4,), (4,)]


@pytest.mark.slow
def test_export_leaves_the_model_as_it_was(tmp_path):
    model = export_models.built(small_resnet.build, "mixed_bfloat16")
    model.compile("sgd", small_resnet.LOSS)
    config, weights, outputs = model.get_config(), model.get_weights(), model(IMAGES)
    for portable, format in [(False, "saved_model"), (True, "saved_model"), (True, "tflite")]:
        tfgn.export(model, tmp_path / f"{portable}{format}", portable, format)
    assert model.get_config() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(outputs, model(IMAGES))
    graph = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec([2, 8, 8, 3])).graph
    assert {"GroupNorm", "StandardizeWeights"} <= {op.type for op in graph.get_operations()}
    model.fit(small_resnet.IMAGES, small_resnet.LABELS, verbose=0)
    assert all(np.any(a != b) for a, b in zip(weights, model.get_weights(), strict=True))


@pytest.mark.slow
def test_targets_are_the_old_arguments_in_one_word(tmp_path):
    model = export_models.built(export_models.without_standardization)
    targets = {
        (False, "saved_model"): "saved_model",
        (True, "saved_model"): "saved_model_portable",
        (True, "tflite"): "litert",
        (True, "onnx"): "onnxruntime",
    }
    for (portable, format), target in targets.items():
        exported = tfgn.export(model, tmp_path / target, portable, format)
        assert (exported.target, exported.portable) == (target, portable)
        again = tfgn.export(model, tmp_path / target, target=target, overwrite=True)
        assert dataclasses.replace(again, difference=exported.difference) == exported


@pytest.mark.parametrize("portable", [False, True])
def test_requirements_lie_beside_the_model(portable, tmp_path):
    model = export_models.built(export_models.without_standardization)
    tfgn.export(model, tmp_path / "model", portable)
    file = tmp_path / "model" / "assets.extra" / "tensorflow_groupnorm.json"
    requirements = json.loads(file.read_text())
    assert requirements["portable"] == portable
    assert requirements["custom_ops"] == ([] if portable else ["GroupNorm"])
    needs = {"tensorflow"} if portable else {"tensorflow", "tensorflow-groupnorm"}
    assert set(requirements["requires"]) == needs
    assert requirements["written_by"]["tensorflow"] == tf.__version__
    assert requirements["written_by"]["tensorflow-groupnorm"] == tfgn.__version__


@pytest.mark.slow
def test_portable_model_runs_in_stock_tensorflow_with_its_own_command(tmp_path):
    model = export_models.built(small_resnet.build)
    path = tfgn.export(model, tmp_path / "model", portable=True).path
    inputs = tmp_path / "inputs.npy"
    np.save(inputs, IMAGES)
    loaded = tf.saved_model.load(path)
    (name,) = loaded.signatures["serving_default"].structured_input_signature[1]
    command = (
        "import sys; sys.modules['tensorflow_groupnorm'] = None; "
        "from tensorflow.python.tools.saved_model_cli import main; main()"
    )
    result = subprocess.run(
        [
            *(sys.executable, "-c", command, "run", "--dir", path, "--tag_set", "serve"),
            *("--signature_def", "serving_default", "--inputs", f"{name}={inputs}"),
            *("--outdir", tmp_path / "cli"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    served = np.load(tmp_path / "cli" / "output_0.npy")
    assert relative_difference(model(IMAGES), served) < TOLERANCES["float32"]


def test_portable_model_that_differs_is_not_written(tmp_path, monkeypatch):
    right = stock.group_norm
    monkeypatch.setattr(
        stock, "group_norm", lambda *args, epsilon, **kwargs: right(*args, epsilon=1.0, **kwargs)
    )
    model = export_models.built(export_models.without_standardization)
    with pytest.raises(tfgn.ExportError, match=r"the largest difference is 0\.\d+ of the largest"):
        tfgn.export(model, tmp_path / "model", portable=True)
    assert list(tmp_path.iterdir()) == []
    exported = tfgn.export(model, tmp_path / "model", portable=True, tolerance=1.0)
    assert 1e-4 < exported.difference < 1


def raw(x):
    return tfgn.raw_ops.GroupNorm(x=x, gamma=[], beta=[], side_input=[], groups=2).y


def test_custom_ops_that_cannot_be_replaced_are_named(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(raw, output_shape=(4,))(inputs))
    with pytest.raises(tfgn.ExportError, match="custom ops by their raw names, .*: GroupNorm"):
        tfgn.export(model, tmp_path / "model", portable=True)
    assert list(tmp_path.iterdir()) == []
    assert tfgn.export(model, tmp_path / "model").custom_ops == ("GroupNorm",)


def test_standardization_that_cannot_be_folded_is_said(tmp_path):
    inputs = keras.Input((4, 5), batch_size=2)
    kernel = keras.layers.Lambda(lambda x: tfgn.standardize_weights(x[0]), output_shape=(5,))
    model = keras.Model(inputs, kernel(inputs))
    with pytest.warns(UserWarning, match="still standardizes kernels at every call"):
        exported = tfgn.export(model, tmp_path / "model")
    assert exported.custom_ops == ("StandardizeWeights",)


def test_integers_and_example_batches(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(10, 8)(inputs)
    model = keras.Model(inputs, tfgn.layers.GroupNormalization(2)(x))
    assert tfgn.export(model, tmp_path / "random", portable=True).difference < 1e-5
    example = np.arange(6).reshape(2, 3)
    assert tfgn.export(model, tmp_path / "own", portable=True, example=example).difference < 1e-5
    with pytest.raises(tfgn.ExportError, match="The example does not fit the model's input"):
        tfgn.export(model, tmp_path / "bad", example=np.zeros((2, 3, 4)))
    with pytest.raises(tfgn.ExportError, match=r"does not run .*: indices\[0,0\] = 10 is not in"):
        tfgn.export(model, tmp_path / "bad", portable=True, example=example + 10)


def test_lookup_tables_go_along_and_what_is_not_checked_is_said(tmp_path):
    inputs = keras.Input((3,), dtype="string")
    x = keras.layers.StringLookup(vocabulary=["a", "b", "c"])(inputs)
    x = keras.layers.Embedding(4, 8)(x)
    model = keras.Model(inputs, tfgn.layers.GroupNormalization(2)(x))
    with pytest.warns(UserWarning, match="not compared with the model. No random batch"):
        exported = tfgn.export(model, tmp_path / "model")
    assert exported.difference is None
    with pytest.raises(tfgn.ExportError, match="No random batch .*: give a batch"):
        tfgn.export(model, tmp_path / "portable", portable=True)
    example = tf.constant([["a", "c", "x"]])
    exported = tfgn.export(model, tmp_path / "portable", portable=True, example=example)
    loaded = tf.saved_model.load(exported.path)
    served = loaded.serve(example)
    assert relative_difference(model(example), served) < TOLERANCES["float32"]


CHANNELS_FIRST = """
import json, pathlib, warnings
import export_models
import tensorflow_groupnorm as tfgn
from tensorflow_groupnorm._export.latency import latencies

folder, found = pathlib.Path({folder!r}), {{}}
model = export_models.built(export_models.channels_first)
for target in ("saved_model", "saved_model_portable", "onnx"):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        exported = tfgn.export(model, folder / target, target=target)
    said = [str(each.message) for each in warned if each.category is UserWarning]
    found[target] = [exported.difference, said]
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    found["timed"] = list(latencies(model, exported)), [str(each.message) for each in warned]
try:
    latencies(model, tfgn.export(model, folder / "fused"))
except tfgn.ExportError as error:
    found["not timed"] = str(error)
print(json.dumps(found))
"""


def test_channels_first_without_onednn_is_compared_under_xla(tmp_path, answer):
    code = CHANNELS_FIRST.format(folder=str(tmp_path))
    found = answer(code, TF_ENABLE_ONEDNN_OPTS="0", PYTHONPATH=python_path(SUPPORT))
    reason = "The Conv2D op currently only supports the NHWC tensor format on the CPU"
    not_run = f"TensorFlow does not run the saved_model on this machine: {reason}"
    targets, warned = found.pop("timed")
    assert targets == ["onnx"]
    assert any(each.startswith(f"The saved_model is not timed. {not_run}") for each in warned)
    assert found.pop("not timed").startswith(not_run)
    assert list(found) == ["saved_model", "saved_model_portable", "onnx"]
    for target, (difference, warned) in found.items():
        assert difference < TOLERANCES["float32"], target
        assert len(warned) == (target != "onnx") and all(reason in each for each in warned), target


def test_what_keras_cannot_trace_is_said_in_one_sentence(tmp_path):
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
    model.name = None  # As a class leaves it that hands on a name it was not given.
    with pytest.warns(UserWarning, match="The export is not compared with the model"):
        with pytest.raises(tfgn.ExportError, match="cannot trace the model None: .* `name` must"):
            tfgn.export(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said_in_one_sentence(tmp_path):
    model = small_resnet.build()
    path = tmp_path / "model"
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: model=3"):
        tfgn.export(3, path)
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: model=3"):
        tfgn.export(3, path, portable=True, format="tflite")
    with pytest.raises(
        tfgn.ExportError, match="The input shapes of the model .* are unknown: call it"
    ):
        tfgn.export(export_models.Subclassed(), path)
    with pytest.raises(ValueError, match="must be one of saved_model, tflite, onnx. Rec.*'h5'"):
        tfgn.export(model, path, format="h5")
    with pytest.raises(ValueError, match="format='tflite' needs portable=True"):
        tfgn.export(model, path, format="tflite")
    with pytest.raises(ValueError, match="must be one of saved_model, saved_model_por.*'torch'"):
        tfgn.export(model, path, target="torch")
    with pytest.raises(ValueError, match="`target` replaces `portable` and `format`: give one"):
        tfgn.export(model, path, portable=True, target="onnx")
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_replaced_on_demand_only(tmp_path):
    model = export_models.built(export_models.without_standardization)
    path = tmp_path / "model"
    tfgn.export(model, path)
    with pytest.raises(FileExistsError, match="exists: pass overwrite=True"):
        tfgn.export(model, path, portable=True)
    assert "GroupNorm" in kinds(path)
    tfgn.export(model, path, portable=True, overwrite=True)
    assert "GroupNorm" not in kinds(path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(
        FileExistsError, match="directory without a SavedModel, which is never overwritten"
    ):
        tfgn.export(model, tmp_path, overwrite=True)


def test_links_are_replaced_and_not_followed(tmp_path):
    model = export_models.built(export_models.without_standardization)
    first, link, loose = tmp_path / "first", tmp_path / "link", tmp_path / "loose"
    tfgn.export(model, first)
    link.symlink_to(first)
    loose.symlink_to(tmp_path / "nowhere")
    for path in (link, loose):
        with pytest.raises(FileExistsError, match="exists: pass overwrite=True"):
            tfgn.export(model, path, portable=True)
        tfgn.export(model, path, portable=True, overwrite=True)
        assert not path.is_symlink() and "GroupNorm" not in kinds(path)
    assert "GroupNorm" in kinds(first)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "link", "loose"}
    with pytest.raises(NotADirectoryError, match="fingerprint.pb is not a directory"):
        tfgn.export(model, first / "fingerprint.pb" / "model")


def test_kernels_beyond_what_a_graph_holds_are_refused(tmp_path, monkeypatch):
    from tensorflow_groupnorm._export import saved_model

    monkeypatch.setattr(saved_model, "_LARGEST_CONSTANTS", 100)
    with pytest.raises(tfgn.ExportError, match="cannot store a graph of 2 GiB: use model.export"):
        tfgn.export(small_resnet.build(), tmp_path / "model")
