"""The composites of group normalizations in TFLite files, and what LiteRT does with them."""

import sys
from collections import Counter

import export_models
import keras
import numpy as np
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from export_runtimes import check
from flatbuffers import flexbuffers
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow_groupnorm import ops
from tensorflow_groupnorm._export import litert_composites

layers = tfgn.layers

pytestmark = pytest.mark.slow


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def read(path):
    return flatbuffer_utils.read_model(str(path))


def kinds(model, graph):
    """The types of the operators of a graph, in order."""
    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    codes = [model.operatorCodes[operator.opcodeIndex] for operator in graph.operators]
    return [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in codes]


def composites(model, graph):
    return [
        operator
        for operator, kind in zip(graph.operators, kinds(model, graph), strict=True)
        if kind == "STABLEHLO_COMPOSITE"
    ]


def normalized(**arguments):
    """A function of `tfgn.group_norm` as a model of images of 4x4x6."""
    x = keras.Input((4, 4, 6))
    call = keras.layers.Lambda(
        lambda x: tfgn.group_norm(x, **arguments), output_shape=x.shape[1:], name="norm"
    )
    return keras.Model(x, call(x))


def export(model, tmp_path, **options):
    return tfgn.export(model, tmp_path / "model.tflite", target="litert", **options)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (4, 4, 6)])
def test_composite_is_what_the_delegates_read(shape, tmp_path):
    x = keras.Input(shape)
    model = export_models.built(
        lambda: keras.Model(x, layers.GroupNormalization(2, epsilon=1e-5, name="norm")(x))
    )
    exported = export(model, tmp_path)
    assert exported.fused == ("norm",) and exported.unfused == {}
    file = read(exported.path)
    (operator,) = composites(file, file.subgraphs[0])
    options = operator.builtinOptions2
    assert (options.name, options.version) == (b"odml.group_norm", 1)
    assert options.compositeAttributesFormat == schema.CustomOptionsFormat.FLEXBUFFERS
    attributes = flexbuffers.GetRoot(bytes(options.compositeAttributes)).AsMap
    assert {key.AsKey for key in attributes.Keys} == {
        "num_groups",
        "epsilon",
        "channel_axis",
        "_TENSOR_V1_reduction_axes",
    }
    assert attributes["num_groups"].IsInt and attributes["num_groups"].AsInt == 2
    assert attributes["epsilon"].IsFloat and attributes["epsilon"].AsFloat == np.float32(1e-5)
    assert attributes["channel_axis"].AsInt == len(shape)
    # The GPU delegate asks for this axis alone, and takes a typed vector for an empty one.
    axes = attributes["_TENSOR_V1_reduction_axes"].AsMap["TENSOR_DATA"]
    assert axes.IsVector and [axis.AsInt for axis in axes.AsVector] == [len(shape)]
    x, *parameters = (file.subgraphs[0].tensors[index] for index in operator.inputs)
    assert [list(p.shape) for p in parameters] == [[6], [6]]
    assert all(len(file.buffers[p.buffer].data) == 4 * 6 for p in parameters)
    assert list(x.shapeSignature) == [-1, *shape]
    check(model, exported.path, "tflite", [random(3, *shape)])


def test_every_norm_of_a_network_is_a_composite(tmp_path):
    model = export_models.built(small_resnet.build)
    norms = [x.name for x in model.layers if isinstance(x, layers.GroupNormalization)]
    exported = export(model, tmp_path)
    assert sorted(exported.fused) == sorted(norms) and exported.unfused == {}
    file = read(exported.path)
    main, *decompositions = file.subgraphs
    assert len(composites(file, main)) == len(norms)
    assert not any(code.customCode for code in file.operatorCodes)
    # The operators of a decomposition are executed for each composite.
    executed = Counter(kinds(file, main))
    for operator in composites(file, main):
        body = file.subgraphs[operator.builtinOptions2.decompositionSubgraphIndex]
        assert body.name.startswith(b"odml.group_norm.impl_")
        executed.update(kinds(file, body))
    assert Counter(exported.executed) == executed
    assert exported.executed["STABLEHLO_COMPOSITE"] == len(norms)
    assert len(decompositions) == len(
        {o.builtinOptions2.decompositionSubgraphIndex for o in composites(file, main)}
    )
    # Nothing is left of the outputs that a composite does not have.
    used = {int(i) for o in main.operators for i in [*o.inputs, *o.outputs]}
    assert used == set(range(len(main.tensors)))


def test_what_follows_a_norm_stays_behind_its_composite(tmp_path):
    x, condition = keras.Input((4, 4, 6)), keras.Input((6,))
    y = layers.GroupNormalization(2, activation="relu")(x, residual=x)
    y = layers.GroupNormalization(3, activation="silu")(y, scale=condition, shift=condition)
    model = export_models.built(lambda: keras.Model([x, condition], y))
    exported = export(model, tmp_path)
    assert len(exported.fused) == 2
    file = read(exported.path)
    found = Counter(kinds(file, file.subgraphs[0]))
    assert found["STABLEHLO_COMPOSITE"] == 2 and found["LOGISTIC"] == 1
    assert {"MEAN", "RSQRT"}.isdisjoint(found)
    for operator in composites(file, file.subgraphs[0]):
        tensors = [file.subgraphs[0].tensors[index] for index in operator.inputs]
        assert [list(tensor.shape) for tensor in tensors[1:]] == [[6], [6]]
    check(model, exported.path, "tflite", [[random(3, 4, 4, 6), random(3, 6)]])


def test_parameters_that_depend_on_the_input_stay_behind_the_composite(tmp_path):
    x = keras.Input((4, 4, 6))

    def call(x):
        return tfgn.group_norm(x, tf.reduce_mean(x, [0, 1, 2]), tf.ones([6]), groups=2)

    model = keras.Model(x, keras.layers.Lambda(call, output_shape=(4, 4, 6), name="norm")(x))
    exported = export(model, tmp_path)
    assert exported.fused == ("norm",)
    check(model, exported.path, "tflite", [random(3, 4, 4, 6)])


def test_parameters_that_the_converter_does_not_compute_are_reported(tmp_path):
    x = keras.Input((4, 4, 6))

    def call(x):
        ones = tf.math.ceil(tf.random.uniform([6], 0.1, 0.9))
        return tfgn.group_norm(x, ones, groups=2)

    model = keras.Model(x, keras.layers.Lambda(call, output_shape=(4, 4, 6), name="norm")(x))
    exported = export(model, tmp_path)
    assert exported.fused == ()
    assert exported.unfused == {"norm": "its scale or shift is computed in the graph"}


def unfused_norms():
    """A model of norms that the composite cannot express, each named after the reason."""
    x, mask = keras.Input((4, 4, 6)), keras.Input((4, 4), dtype="bool")
    y = layers.GroupNormalization(2, axis=1, name="first")(x)
    y = layers.GroupNormalization(1, name="one_group")(y)
    y = keras.layers.GroupNormalization(2, name="of_keras")(y)
    y = keras.layers.Lambda(
        lambda x: tf.cast(tfgn.group_norm(tf.cast(x, "float16"), groups=2), "float32"),
        output_shape=(4, 4, 6),
        name="half",
    )(y)
    volume = keras.layers.Reshape((2, 2, 4, 6))(y)
    volume = layers.GroupNormalization(2, name="volume")(volume)
    y = keras.layers.Add()([y, keras.layers.Reshape((4, 4, 6))(volume)])
    y = layers.GroupNormalization(2, use_mask=True, name="masked")(y, mask=mask)
    return keras.Model([x, mask], y)


def test_norms_without_a_composite_are_named_with_the_reason(tmp_path):
    model = unfused_norms()
    exported = export(model, tmp_path, tolerance=1e-2)
    assert exported.fused == ()
    assert exported.unfused == {
        "first": "its channels are not on the last axis",
        "one_group": "it has one group, which a compiler of LiteRT takes for a layer normalization",
        "masked": "it has a mask",
        "of_keras": "it is a layer of Keras, which tensorflow_groupnorm.convert fuses",
        "half": "it computes in float16",
        "volume": "it has 5 axes, and LiteRT's composite 2 to 4",
    }
    file = read(exported.path)
    assert len(file.subgraphs) == 1 and not composites(file, file.subgraphs[0])


def test_without_the_op_library_norms_stay_in_builtin_operators(tmp_path, monkeypatch):
    monkeypatch.setattr(ops, "_OPS", None)
    exported = export(normalized(groups=2), tmp_path)
    assert exported.unfused == {"norm": "the op library is not loaded"}


def test_one_group_of_a_vector_is_a_composite(tmp_path):
    x = keras.Input((6,))
    model = keras.Model(x, layers.GroupNormalization(1, name="norm")(x))
    assert export(model, tmp_path).fused == ("norm",)


def test_any_number_of_channels_stays_in_builtin_operators(tmp_path):
    class Model(keras.Model):
        def call(self, x):
            return tfgn.group_norm(x, groups=2, activation="relu")

    model = Model()
    model(random(1, 4, 6))
    signature = [tf.TensorSpec([None, 4, None], name="args_0")]
    exported = export(model, tmp_path, input_signature=signature)
    assert list(exported.unfused.values()) == ["the number of its channels is unknown"]
    check(model, exported.path, "tflite", [random(3, 4, 10)])


def test_norms_in_loops(tmp_path):
    def loop(x):
        step = lambda i, x: (i + 1, tfgn.group_norm(1.1 * x, groups=2))  # noqa: E731
        return tf.while_loop(lambda i, x: i < 3, step, [0, x])[1]

    x = keras.Input((4, 6))
    model = keras.Model(x, keras.layers.Lambda(loop, output_shape=(4, 6), name="loop")(x))
    exported = export(model, tmp_path)
    assert len(exported.fused) == 1 and exported.unfused == {}
    file = read(exported.path)
    assert sum(len(composites(file, graph)) for graph in file.subgraphs[1:]) == 1
    check(model, exported.path, "tflite", [random(3, 4, 6)])


def test_means_that_are_large_stay_accurate(tmp_path):
    x = keras.Input((8, 8, 6))
    model = keras.Model(x, layers.GroupNormalization(2)(x))
    exported = export(model, tmp_path)
    check(model, exported.path, "tflite", [1000 + random(3, 8, 8, 6)], 1e-4)


def test_sizes_that_are_known_only_in_a_check(tmp_path):
    x = keras.Input((None, None, 6))

    def call(x):
        return tfgn.group_norm(
            tf.ensure_shape(tf.reshape(x, [-1, 4, 4, 6]), [None, 4, 4, 6]), groups=3
        )

    model = keras.Model(x, keras.layers.Lambda(call, output_shape=(4, 4, 6), name="norm")(x))
    exported = export(model, tmp_path, example=random(2, 4, 4, 6))
    assert exported.fused == ("norm",)
    check(model, exported.path, "tflite", [random(3, 4, 4, 6)])


@pytest.mark.parametrize(
    ("arguments", "output", "refused"),
    [
        ({}, lambda outputs: outputs.y, False),
        ({"activation": "relu"}, lambda outputs: outputs.y, True),
        ({"gamma": []}, lambda outputs: outputs.y, True),
        ({}, lambda outputs: outputs.y - outputs.mean[0, 0], True),
    ],
)
def test_raw_op_is_written_if_a_composite_has_its_arguments(arguments, output, refused, tmp_path):
    parameters = {"gamma": tf.ones([6]), "beta": tf.zeros([6]), "side_input": [], "groups": 2}

    def call(x):
        return output(tfgn.raw_ops.GroupNorm(x=x, **(parameters | arguments)))

    x = keras.Input((4, 6))
    model = keras.Model(x, keras.layers.Lambda(call, output_shape=(4, 6), name="raw")(x))
    if refused:
        with pytest.raises(tfgn.ExportError, match="calls .*/raw.*/GroupNorm by its raw name"):
            export(model, tmp_path)
        assert list(tmp_path.iterdir()) == []
    else:
        assert export(model, tmp_path).fused == ("raw",)


def test_file_without_its_composites_is_refused(tmp_path, monkeypatch):
    nothing = litert_composites.Operators([], {})
    monkeypatch.setattr(litert_composites, "read", lambda path: nothing)
    with pytest.raises(tfgn.ExportError, match="The file has 0 composites for 1 normalizations"):
        export(normalized(groups=2), tmp_path)
    assert list(tmp_path.iterdir()) == []


class CountingInterpreter(tf.lite.Interpreter):
    made = 0

    def __init__(self, path):
        type(self).made += 1
        super().__init__(path)


def test_interpreter_of_tensorflow_checks_where_that_of_litert_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setattr(tf.lite, "Interpreter", CountingInterpreter)
    assert export(normalized(groups=2), tmp_path).difference < 1e-5
    assert CountingInterpreter.made == 1


def test_recurrent_layers_become_a_file_if_they_are_unrolled(tmp_path):
    x = keras.Input((5, 4))
    y = layers.GroupNormalization(2)(keras.layers.LSTM(6, return_sequences=True, unroll=True)(x))
    model = export_models.built(lambda: keras.Model(x, y))
    exported = export(model, tmp_path)
    assert len(exported.fused) == 1
    check(model, exported.path, "tflite", [random(3, 5, 4)])


def interpreters():
    """The interpreters of TensorFlow and of LiteRT, with and without XNNPACK."""
    from ai_edge_litert import interpreter as litert
    from tensorflow.lite.python import interpreter as tensorflow

    for runtime in (tensorflow, litert):
        types = runtime.OpResolverType
        for resolver in (types.AUTO, types.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
            yield lambda path, runtime=runtime, resolver=resolver: runtime.Interpreter(
                str(path), experimental_op_resolver_type=resolver
            )


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_runtimes_agree_on_any_batch_with_and_without_xnnpack(tmp_path):
    model = export_models.built(small_resnet.build)
    exported = export(model, tmp_path)
    runtimes = [make(exported.path) for make in interpreters()]
    assert len(runtimes) == 4
    for batch in (1, 3, 2):
        images = np.resize(small_resnet.IMAGES, (batch, *small_resnet.IMAGES.shape[1:]))
        expected = model.predict(images, verbose=0)
        for runtime in runtimes:
            signature = runtime.get_signature_runner("serving_default")
            (name,) = signature.get_input_details()
            (y,) = signature(**{name: images}).values()
            np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())


def test_compiled_model_of_litert_executes_the_composites(tmp_path):
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    x = keras.Input((8, 8, 6), batch_size=2)
    model = export_models.built(
        lambda: keras.Model(x, layers.GroupNormalization(2, activation="relu")(x))
    )
    images = random(2, 8, 8, 6)
    signature = [tf.TensorSpec(images.shape, name="image")]
    exported = export(model, tmp_path, input_signature=signature)
    compiled = CompiledModel.from_file(str(exported.path), hardware_accel=HardwareAccelerator.CPU)
    inputs, outputs = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
    inputs[0].write(images)
    compiled.run_by_index(0, inputs, outputs)
    y = outputs[0].read(images.size, np.float32).reshape(images.shape)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())
