"""Models of stock layers with standardized kernels as constants."""

import json

import composites
import export_models
import keras
import numpy as np
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from export_models import batch, built
from keras import layers
from tensorflow_groupnorm._export.check import largest_difference, run_model
from tensorflow_groupnorm.layers import (
    GroupNormalization,
    RecomputedNormalization,
    StandardizedConv2D,
    StandardizedDense,
    WeightStandardization,
)

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Runs saved models in a process that cannot import this package; argv: a folder.
PLAIN_KERAS = """
import json, pathlib, sys
sys.modules["tensorflow_groupnorm"] = None
import keras
import numpy as np

differences = {{}}
for path in pathlib.Path({folder!r}).glob("*.keras"):
    arrays = dict(np.load(path.with_suffix(".npz")))
    model = keras.saving.load_model(path)
    outputs = model([arrays[f"x{{i}}"] for i in range(len(model.inputs))])
    expected = [arrays[f"y{{i}}"] for i in range(len(keras.tree.flatten(outputs)))]
    differences[path.stem] = max(
        float(np.abs(np.asarray(y) - z).max() / np.abs(z).max())
        for y, z in zip(keras.tree.flatten(outputs), expected)
    )
print(json.dumps(differences))
"""


def convolutions():
    """Kernels of every shape, and normalizations that are called in every way."""
    inputs = keras.Input((8, 8, 4))
    x = tfgn.layers.StandardizedDepthwiseConv2D(3, variant="qiao")(inputs)
    x = tfgn.layers.StandardizedConv2DTranspose(6, 3, variant="nfnet", gain=True)(x)
    separable = layers.SeparableConv2D(8, 3, padding="same")
    x = WeightStandardization(separable, "timm", gain=True, name="separable")(x)
    x = StandardizedConv2D(8, 3, groups=2, name="conv")(x)
    y = GroupNormalization(4)(x)
    y = GroupNormalization(2, activation="relu", name="fused")(y, residual=x)
    y = GroupNormalization(2, name="added")(y, residual=x)
    style = layers.Dense(8)(layers.GlobalAveragePooling2D()(inputs))
    adaptive = GroupNormalization(2, activation=layers.PReLU(), name="adaptive")
    y = adaptive(y, scale=style, shift=style)
    y = GroupNormalization(2, name="shifted")(y, shift=style)
    readers = [StandardizedConv2D(4, 1, name="reader"), layers.Conv2D(2, 1), []]
    norm = GroupNormalization(2, activation="relu", name="recomputed")
    outputs = RecomputedNormalization(norm, readers)(y)
    return keras.Model(inputs, [*outputs, GroupNormalization(4, axis=-3)(inputs)])


def sequences():
    """Recurrent layers, attention, and wrappers inside and outside."""
    inputs = keras.Input((5, 4))
    x = WeightStandardization(
        layers.Bidirectional(layers.LSTM(3, return_sequences=True)), gain=True
    )(inputs)
    x = layers.Bidirectional(WeightStandardization(layers.GRU(3, return_sequences=True)))(x)
    x = layers.TimeDistributed(WeightStandardization(layers.Dense(6)))(x)
    x = layers.TimeDistributed(GroupNormalization(group_size=2, activation="relu"))(x)
    x = WeightStandardization(layers.TimeDistributed(layers.Dense(6)))(x)
    x = WeightStandardization(layers.MultiHeadAttention(2, 3), gain=True)(x, x)
    head = [StandardizedDense(4), GroupNormalization(2, activation="silu")]
    x = layers.TimeDistributed(keras.Sequential([keras.Input((6,)), *head]))(x)
    return keras.Model(inputs, x)


class Block(layers.Layer):
    """Layers of this package in a layer without a config."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv = StandardizedConv2D(filters, 3, padding="same")
        self.norm = GroupNormalization(2, activation="relu")
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=None):
        return self.norm(self.drop(self.conv(x), training=training), residual=x)


class Blocks(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [Block(4), Block(4)]
        self.head = layers.Dense(2)

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return {"head": self.head(keras.ops.mean(x, (1, 2)))}


def subclassed():
    model = Blocks()
    model(tf.zeros([1, 8, 8, 4]))
    return model


def shared_block():
    inputs, block = keras.Input((8, 8, 4)), Block(4)
    return keras.Model(inputs, block(block(inputs)))


def converted_class():
    model = keras.Sequential([keras.Input((8, 8, 4)), composites.Nested(kind="bn")])
    return tfgn.convert(model, groups=2, report=None)


BUILDERS = [
    convolutions,
    sequences,
    subclassed,
    shared_block,
    converted_class,
    export_models.sequential,
    export_models.nested_and_shared,
    export_models.three_dimensional,
]


def names_of_classes(model):
    return {type(layer).__module__.partition(".")[0] for layer in model._flatten_layers()}


def difference(model, other):
    inputs = batch(model, 3)
    return largest_difference(run_model(model, inputs), run_model(other, inputs))


@pytest.mark.parametrize("build", BUILDERS)
def test_folded_model_has_stock_layers_and_the_same_outputs(build):
    model = built(build)
    before = model.get_weights()
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    folded = tfgn.fold(model)
    assert "tensorflow_groupnorm" not in names_of_classes(folded)
    assert difference(model, folded) < 1e-5
    assert folded.name == model.name
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == nodes
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [("mixed_float16", 1e-2), ("mixed_bfloat16", 5e-2), ("float64", 1e-9)],
)
def test_folded_model_computes_in_the_dtypes_of_the_model(policy, tolerance):
    model = built(small_resnet.build, policy)
    folded = tfgn.fold(model)
    assert folded.output.dtype == model.output.dtype
    assert {v.dtype for v in folded.variables} == {v.dtype for v in model.variables}
    assert difference(model, folded) < tolerance


@pytest.mark.slow
def test_folded_models_load_without_this_package(tmp_path, answer):
    for build in (convolutions, sequences, subclassed, export_models.nested_and_shared):
        model = built(build)
        inputs = batch(model, 2)
        x = keras.tree.flatten(inputs)
        y = keras.tree.flatten(model(*inputs))
        tfgn.fold(model).save(tmp_path / f"{build.__name__}.keras")
        arrays = {f"x{i}": value for i, value in enumerate(x)}
        arrays |= {f"y{i}": value for i, value in enumerate(y)}
        np.savez(tmp_path / f"{build.__name__}.npz", **arrays)
    differences = answer(PLAIN_KERAS.format(folder=str(tmp_path)))
    assert len(differences) == 4 and max(differences.values()) < 1e-4, json.dumps(differences)


def test_layers_of_the_same_names_have_the_same_outputs():
    model = built(convolutions)
    folded = tfgn.fold(model)
    for name in ("separable", "conv", "fused", "added", "adaptive", "shifted"):
        parts = [keras.Model(m.inputs, m.get_layer(name).output) for m in (model, folded)]
        assert difference(*parts) < 1e-5
    assert type(folded.get_layer("conv")) is layers.Conv2D
    assert type(folded.get_layer("fused_norm")) is layers.GroupNormalization
    assert type(folded.get_layer("reader")) is layers.Conv2D
    kernel = tfgn.standardize_weights(model.get_layer("conv").kernel)
    np.testing.assert_array_equal(folded.get_layer("conv").kernel, kernel)


def test_trainable_and_the_class_of_a_user_are_kept():
    class Own(keras.Model):
        pass

    inputs = keras.Input((8, 8, 3))
    frozen = StandardizedConv2D(4, 3, trainable=False, name="frozen")
    x = GroupNormalization(2, activation="relu", name="norm")(frozen(inputs))
    wrapped = WeightStandardization(layers.Conv2D(2, 3), name="wrapped")
    wrapped.trainable = False
    model = Own(inputs, layers.Dense(2, name="head")(wrapped(x)))
    folded = tfgn.fold(model)
    assert isinstance(folded, Own)
    trainable = {layer.name for layer in folded.layers if layer.trainable_variables}
    assert trainable == {"norm_norm", "head"}


def test_lora_is_merged_into_standardized_kernels():
    adapted = StandardizedDense(6, name="adapted")
    wrapped = WeightStandardization(layers.Dense(4), name="wrapped")
    model = keras.Sequential([keras.Input((5,)), adapted, wrapped, layers.Dense(3)])
    for layer in (adapted, wrapped.layer, model.layers[-1]):
        layer.enable_lora(2)
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.standard_normal(weight.shape))
    folded = tfgn.fold(model)
    assert difference(model, folded) < 1e-5
    assert not folded.get_layer("adapted").lora_enabled
    assert not folded.get_layer("wrapped").lora_enabled


@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method")
def test_folded_model_can_be_quantized(tmp_path):
    inputs = keras.Input((6, 8))
    x = WeightStandardization(layers.EinsumDense("abc,cd->abd", (6, 16)))(inputs)
    x = GroupNormalization(4, activation="relu")(StandardizedDense(16)(x))
    model = built(lambda: keras.Model(inputs, layers.Dense(3)(x)))
    folded = tfgn.fold(model)
    folded.quantize("int8")
    modes = [getattr(layer, "quantization_mode", None) for layer in folded.layers]
    assert modes.count("int8") == 3
    assert difference(model, folded) < 0.1
    folded.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert difference(folded, loaded) == 0


def test_quantized_layers_of_keras_stay_quantized():
    conv = StandardizedConv2D(8, 3)
    model = keras.Sequential([keras.Input((4, 4, 3)), conv, layers.Dense(4, name="dense")])
    model.get_layer("dense").quantize("int8")
    folded = tfgn.fold(model)
    assert folded.get_layer("dense").quantization_mode == "int8"
    assert difference(model, folded) < 1e-5


def test_fused_normalizations_can_be_kept():
    model = built(convolutions)
    folded = tfgn.fold(model, norm=None)
    ours = {
        type(layer)
        for layer in folded._flatten_layers()
        if type(layer).__module__.partition(".")[0] == "tensorflow_groupnorm"
    }
    assert ours == {GroupNormalization}
    assert type(folded.get_layer("fused")) is GroupNormalization
    assert difference(model, folded) < 1e-6


def test_a_layer_may_be_called_with_and_without_its_wrapper():
    inputs = keras.Input((4, 4, 3))
    conv = layers.Conv2D(3, 3, padding="same", name="conv")
    model = keras.Model(inputs, conv(WeightStandardization(conv, name="wrapped")(inputs)))
    folded = tfgn.fold(built(lambda: model))
    assert difference(model, folded) < 1e-5
    np.testing.assert_array_equal(folded.get_layer("conv").kernel, conv.kernel)


class OfADict(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = StandardizedDense(4)

    def call(self, inputs):
        return self.dense(inputs["a"]) + inputs["b"]


def test_the_names_of_inputs_are_kept():
    model = OfADict()
    inputs = {"a": tf.ones((2, 3)), "b": tf.ones((2, 4))}
    expected = model(inputs)
    folded = tfgn.fold(model)
    assert sorted(folded.input) == ["a", "b"]
    assert [tensor.name for tensor in folded.inputs] == ["a", "b"]
    np.testing.assert_allclose(folded(inputs), expected, rtol=1e-5)


def test_rematerialized_models_are_compared_too():
    with keras.RematScope("full"):
        inputs = keras.Input((6, 6, 4))
        model = keras.Model(inputs, GroupNormalization(2)(StandardizedConv2D(4, 3)(inputs)))
    with pytest.raises(tfgn.ExportError, match="differs from the model"):
        tfgn.fold(model, tolerance=-1)
    tfgn.fold(model)


class WithItsOwnConfig(keras.Model):
    """A functional model whose config is not its graph."""

    def get_config(self):
        return {"name": self.name}


def test_a_converted_model_of_a_class_becomes_one_of_that_class():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs))
    model = WithItsOwnConfig(inputs, layers.ReLU()(x))
    converted = tfgn.convert(model, groups=2, in_place=True, report=None)
    folded = tfgn.fold(converted)
    assert type(folded) is WithItsOwnConfig
    assert "tensorflow_groupnorm" not in names_of_classes(folded)
    assert difference(converted, folded) < 1e-5


def masked():
    inputs = keras.Input((5, 4))
    x = GroupNormalization(2, use_mask=True, name="masked")(layers.Masking()(inputs))
    return keras.Model(inputs, x)


def masked_residual():
    inputs = keras.Input((5, 4))
    x = layers.Masking()(inputs)
    return keras.Model(inputs, GroupNormalization(2, name="residual")(x, residual=x))


class Untraceable(Block):
    def call(self, x):
        return tf.math.l2_normalize(super().call(x))


def untraceable():
    inputs = keras.Input((8, 8, 4))
    return keras.Model(inputs, Untraceable(4, name="own")(inputs))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (masked, "'masked' leaves masked positions out of its statistics.*norm=None keeps it"),
        (masked_residual, "'residual' cannot be folded: its input has a mask"),
        (export_models.subclassed, "'subclassed.*' cannot be folded.*weights of its own"),
        (untraceable, "'own' cannot be folded.*its call cannot be traced"),
        (keras.Sequential, "must be built"),
    ],
)
def test_refusals_are_one_sentence(build, message):
    with pytest.raises(ValueError, match=message) as error:
        tfgn.fold(build())
    assert "\n" not in str(error.value)


def test_other_arguments_are_checked():
    model = small_resnet.build()
    with pytest.raises(TypeError, match="must be a keras.Model"):
        tfgn.fold("model.keras")
    with pytest.raises(ValueError, match="`norm` must be 'keras' or None. Received: norm='gn'"):
        tfgn.fold(model, norm="gn")
    with pytest.raises(tfgn.ExportError, match="The folded model differs from the model"):
        tfgn.fold(built(lambda: model), tolerance=0)
    with pytest.raises(tfgn.ExportError, match="The example does not fit"):
        tfgn.fold(model, example=np.zeros([2, 3]))


def test_a_model_that_takes_no_random_batch_is_not_compared():
    inputs = keras.Input((), dtype="string")
    x = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(inputs)
    model = keras.Model(inputs, StandardizedDense(4)(x))
    with pytest.warns(UserWarning, match="The folded model is not compared"):
        folded = tfgn.fold(model)
    x = tf.constant(["a", "c"])
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-6)
    assert tfgn.fold(model, example=x).get_layer(model.layers[-1].name).kernel.shape == (3, 4)
