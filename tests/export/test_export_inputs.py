"""Inputs and outputs of exported models: their names, structures, dtypes and batch sizes."""

import export_runtimes
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn

pytestmark = pytest.mark.slow

FORMATS = ["saved_model", "tflite", "onnx"]

# Inputs of one shape and different meaning, that no order of names tells apart.
MANY_INPUTS = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
import onnxruntime
import tensorflow as tf
import tensorflow_groupnorm as tfgn

names = ["b", "a", *(f"x_{i}" for i in range(1, 12))]
inputs = [keras.Input((4, 4, 2), name=name) for name in names]
model = keras.Model(
    inputs, [(i + 1) * tfgn.layers.GroupNormalization(1)(x) - i for i, x in enumerate(inputs)]
)
generator = np.random.default_rng(0)
feed = {name: generator.standard_normal((3, 4, 4, 2)).astype("float32") for name in names}
expected = [y.numpy() for y in model([feed[name] for name in names])]

session = onnxruntime.InferenceSession(
    tfgn.export(model, os.environ["FOLDER"] + "/m.onnx", True, "onnx", tolerance=np.inf).path
)
answers = dict(zip([y.name for y in session.get_outputs()], session.run(None, feed)))
run = tf.lite.Interpreter(
    str(tfgn.export(model, os.environ["FOLDER"] + "/m.tflite", True, "tflite").path)
).get_signature_runner("serving_default")
for outputs in (answers, run(**feed)):
    for i, y in enumerate(expected):
        np.testing.assert_allclose(outputs[f"output_{i}"], y, atol=1e-4)
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_inputs_and_outputs_keep_their_names_whatever_the_hash_seed(seed, run_python, tmp_path):
    result = run_python(MANY_INPUTS, PYTHONHASHSEED=seed, FOLDER=str(tmp_path))
    assert result.returncode == 0, result.stderr


class Subclassed(keras.Model):
    """Takes `structure(tensors)` and returns a list, with another factor for each tensor."""

    def __init__(self):
        super().__init__()
        self.norm = tfgn.layers.GroupNormalization(2)

    def call(self, inputs):
        return [self.norm(x) * (i + 1.0) for i, x in enumerate(keras.tree.flatten(inputs))]


def _subclassed(structure):
    model = Subclassed()
    model(keras.tree.map_structure(lambda _: tf.zeros([1, 3, 4]), structure))
    return model


def _functional(structure):
    inputs = keras.tree.map_structure(lambda name: keras.Input((3, 4), name=name), structure)
    norm = tfgn.layers.GroupNormalization(2)
    tensors = enumerate(keras.tree.flatten(inputs))
    return keras.Model(inputs, {f"of {x.name}": norm(x) * (i + 1.0) for i, x in tensors})


STRUCTURES = {
    "list": ["b", "a"],
    "dict": {"b": "b", "a": "a"},
    "dict with names swapped": {"b": "a", "a": "b"},
    "dict with other names": {"left": "z", "right": "y"},
    "nested": {"p": ["z", "y"], "a": {"q": "x"}},
    "twelve": [f"x{i}" for i in range(12)],
}


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")  # Keys other than names.
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("build", [_functional, _subclassed], ids=["functional", "subclassed"])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=list(STRUCTURES))
def test_structures_of_inputs(structure, build, format, tmp_path):
    model = build(structure)
    exported = tfgn.export(model, tmp_path / "model", True, format)
    generator = np.random.default_rng(0)
    inputs = keras.tree.map_structure(
        lambda _: tf.constant(generator.standard_normal([5, 3, 4]), tf.float32), structure
    )
    export_runtimes.check(model, exported.path, format, [inputs])


@pytest.mark.parametrize("format", FORMATS)
def test_inputs_that_are_outputs_or_unused_and_outputs_that_are_one_tensor(format, tmp_path):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = tfgn.layers.GroupNormalization(2)

        def call(self, inputs):
            _, used, passed = inputs
            y = self.norm(used)
            return {"y": y, "again": y, "passed": passed, "constant": tf.ones([2, 3])}

    model = Model()
    model([tf.zeros([1, 4])] * 3)
    path = tfgn.export(model, tmp_path / "model", True, format).path
    generator = np.random.default_rng(0)
    inputs = [tf.constant(generator.standard_normal([5, 4]), tf.float32) for _ in range(3)]
    feed = export_runtimes.by_name(model, [inputs])
    if format == "onnx":  # ONNX knows no input that nothing depends on.
        assert "args_0" in feed
    actual = export_runtimes.RUN[format](path, feed)
    assert actual.keys() == {"y", "again", "passed", "constant"}
    for name, y in model(inputs).items():
        np.testing.assert_allclose(actual[name], y, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_nested_outputs_are_named_by_their_paths(format, tmp_path):
    x = keras.Input((4, 4, 4), name="x")
    y = tfgn.layers.GroupNormalization(2)(x)
    model = keras.Model(x, {"boxes": [y, y * 2], "scores": (y + 1, {"best": y - 1}), "sum": y + y})
    path = tfgn.export(model, tmp_path / "model", True, format).path
    batch = np.random.default_rng(0).standard_normal([2, 4, 4, 4]).astype("float32")
    actual = export_runtimes.RUN[format](path, {"x": batch})
    y = np.asarray(model.layers[1](batch))
    expected = {"boxes_0": y, "boxes_1": 2 * y, "scores_0": y + 1, "scores_1_best": y - 1}
    assert actual.keys() == {*expected, "sum"}
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-4)


def test_nested_list_of_outputs(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, [[x + 1, x + 2], x + 3])
    path = tfgn.export(model, tmp_path / "model").path
    signature = tf.saved_model.load(path).signatures["serving_default"]
    assert signature.structured_outputs.keys() == {"output_0_0", "output_0_1", "output_1"}


def test_outputs_that_are_no_tensors_are_refused_in_a_sentence(tmp_path):
    class Odd(keras.Model):
        def call(self, x):
            return {"y": x + 1, "label": "cat"}

    model = Odd()
    model(np.ones([2, 4], np.float32))
    with pytest.raises(tfgn.ExportError, match="outputs is of the type str"):
        tfgn.export(model, tmp_path / "model", example=np.ones([2, 4], np.float32))
    assert list(tmp_path.iterdir()) == []


def test_onnx_has_no_name_for_both_an_input_and_an_output(tmp_path):
    image = keras.Input((4, 4, 4), name="image")
    model = keras.Model({"image": image}, {"image": tfgn.layers.GroupNormalization(2)(image)})
    with pytest.raises(tfgn.ExportError, match="image names both an input and an output"):
        tfgn.export(model, tmp_path / "model.onnx", True, "onnx")
    assert list(tmp_path.iterdir()) == []
    tfgn.export(model, tmp_path / "model.tflite", True, "tflite")


@pytest.mark.parametrize("format", FORMATS)
def test_batch_size_that_a_model_insists_on_is_kept(format, tmp_path):
    inputs = keras.Input((8, 4), batch_size=3)
    x = keras.ops.reshape(inputs, (3, 2, 4, 4))
    model = keras.Model(inputs, tfgn.layers.GroupNormalization(2)(x))
    path = tfgn.export(model, tmp_path / "model", True, format).path
    batch = tf.constant(np.random.default_rng(0).standard_normal([3, 8, 4]), tf.float32)
    export_runtimes.check(model, path, format, [batch])


@pytest.mark.parametrize("format", FORMATS)
def test_batch_size_that_a_model_declares_only_stays_free(format, tmp_path):
    inputs = keras.Input((8, 4), batch_size=1)
    model = keras.Model(inputs, tfgn.layers.GroupNormalization(2)(inputs))
    path = tfgn.export(model, tmp_path / "model", True, format).path
    batch = tf.constant(np.random.default_rng(0).standard_normal([5, 8, 4]), tf.float32)
    export_runtimes.check(model, path, format, [batch])


def _of_words():
    words = keras.Input((3,), dtype="string", name="words")
    indices = keras.layers.StringLookup(vocabulary=["a", "b", "c"])(words)
    x = keras.layers.Embedding(4, 8)(indices)
    return keras.Model(words, tfgn.layers.GroupNormalization(2)(x))


def _of_sentences():
    sentences = keras.Input((), dtype="string", name="sentences")
    indices = keras.layers.TextVectorization(vocabulary=["a", "b", "c"], output_sequence_length=3)(
        sentences
    )
    x = keras.layers.Embedding(5, 8)(indices)
    return keras.Model(sentences, tfgn.layers.GroupNormalization(2)(x))


WORDS = tf.constant([["a", "c", "unknown"], ["b", "b", "a"]])
SENTENCES = tf.constant(["A b, c!", "unknown"])


@pytest.mark.parametrize(
    ("build", "example", "format"),
    [
        (_of_words, WORDS, "saved_model"),
        (_of_words, WORDS, "tflite"),
        (_of_sentences, SENTENCES, "saved_model"),
    ],
)
def test_strings(build, example, format, tmp_path):
    model = build()
    with pytest.raises(tfgn.ExportError, match="No random batch can be made .*: give a batch"):
        tfgn.export(model, tmp_path / "model", True, format)
    path = tfgn.export(model, tmp_path / "model", True, format, example=example[:1]).path
    export_runtimes.check(model, path, format, [example])


@pytest.mark.parametrize(
    ("build", "example", "format", "ops"),
    [
        (_of_words, WORDS, "onnx", "HashTableV2, LookupTableFindV2"),
        (_of_sentences, SENTENCES, "onnx", "HashTableV2, LookupTableFindV2"),
        (_of_sentences, SENTENCES, "tflite", "StringLower, StringSplitV2"),
    ],
)
def test_strings_that_a_format_has_no_ops_for(build, example, format, ops, tmp_path):
    with pytest.raises(
        tfgn.ExportError, match=f"{ops}.*without layers such as StringLookup, TextVectorization"
    ):
        tfgn.export(build(), tmp_path / "model", True, format, example=example)
    assert list(tmp_path.iterdir()) == []
