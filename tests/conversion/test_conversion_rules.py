"""`tfgn.convert`: what becomes of each normalization and of each convolution."""

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from conversions import Fused, batch_norm, changes, convert, images, randomize, resnet, stock_norm
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("axis", [-1, 1])
def test_what_a_batch_normalization_carries_over(center, scale, axis):
    arguments = dict(axis=axis, epsilon=0.5, center=center, scale=scale, trainable=False)
    inputs = keras.Input((8, 4, 6) if axis == 1 else (4, 6, 8))
    norm = layers.BatchNormalization(
        name="norm", gamma_regularizer="l2", beta_constraint="non_neg", **arguments
    )
    converted, _ = convert(randomize(keras.Model(inputs, norm(inputs))), groups=4)
    new = converted.get_layer("norm")
    assert isinstance(new, Fused) and new.groups == 4
    assert {key: new.get_config()[key] for key in arguments} == arguments
    if scale:
        np.testing.assert_array_equal(new.gamma, norm.gamma)
        assert isinstance(new.gamma_regularizer, keras.regularizers.L2)
    if center:
        np.testing.assert_array_equal(new.beta, norm.beta)
        assert isinstance(new.beta_constraint, keras.constraints.NonNeg)
    assert (new.gamma is None, new.beta is None) == (not scale, not center)
    x = images(2, *inputs.shape[1:])
    y = layers.GroupNormalization(4, axis=axis, epsilon=0.5)(x)
    shape = [8 if i == axis % 4 else 1 for i in range(4)]
    y = y * (np.reshape(norm.gamma, shape) if scale else 1)
    y = y + (np.reshape(norm.beta, shape) if center else 0)
    np.testing.assert_allclose(converted(x), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "arguments", "result", "reason"),
    [
        ((4, 4, 512), {}, "32 groups", ""),
        ((4, 4, 256), {}, "32 groups", ""),
        ((4, 4, 64), {}, "8 channels per group", "32 groups would leave fewer"),
        ((4, 4, 24), {}, "8 channels per group", "32 groups would leave fewer"),
        ((4, 4, 20), {}, "10 channels per group", "32 groups would leave fewer"),
        ((4, 4, 6), {}, "6 channels per group", "32 groups would leave fewer"),
        ((4, 4, 37), {}, "37 channels per group", "32 groups would leave fewer"),
        ((4, 4, 300), {}, "30 groups", "32 do not divide 300 channels"),
        ((4, 4, 64), {"groups": 32}, "32 groups", ""),
        ((4, 4, 32), {"groups": 32}, "32 groups", "one channel per group"),
        (
            (4, 4, 24),
            {"groups": 32},
            "24 groups",
            "32 do not divide 24 channels; one channel per group",
        ),
        ((4, 4, 48), {"groups": 32}, "24 groups", "32 do not divide 48 channels"),
        ((4, 4, 37), {"groups": 32}, "1 group", "32 do not divide 37 channels"),
        ((4, 4, 24), {"groups": 8}, "8 groups", ""),
        ((4, 4, 24), {"groups": 1}, "1 group", ""),
        ((4, 4, 24), {"groups": -1}, "24 groups", ""),
        ((4, 4, 24), {"group_size": 8}, "8 channels per group", ""),
        (
            (4, 4, 24),
            {"group_size": 16},
            "12 channels per group",
            "groups of 16 do not divide 24 channels",
        ),
        ((None, None, 256), {}, "32 groups", ""),
        ((64,), {}, "1 group", "one value per channel: a single group"),
        ((64,), {"groups": 1}, "1 group", ""),
        ((1, 1, 64), {"group_size": 2}, "1 group", "one value per channel: a single group"),
    ],
)
def test_groups(shape, arguments, result, reason):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.BatchNormalization(name="norm")(inputs))
    converted, report = convert(model, **arguments)
    count, *per_group = result.split(" channels per ")
    norm = converted.get_layer("norm")
    assert (norm.group_size if per_group else norm.groups) == int(count.split()[0])
    change = changes(report)["norm"]
    assert change.result == f"GroupNormalization, {result}"
    assert change.reason.startswith(reason) and bool(change.reason) == bool(reason)


def test_single_value_is_left():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layers.BatchNormalization(name="norm")(inputs))
    converted, report = convert(model)
    assert type(converted.get_layer("norm")) is layers.BatchNormalization
    assert "one value per sample" in changes(report)["norm"].reason


def test_layer_normalization_is_replaced_on_request_only():
    inputs = keras.Input((4, 4, 8))
    x = layers.LayerNormalization(name="norm")(inputs)
    x = layers.LayerNormalization(axis=(1, 2, 3), name="all")(x)
    x = layers.LayerNormalization(name="vector")(layers.GlobalAveragePooling2D()(x))
    model = randomize(keras.Model(inputs, x))
    converted, report = convert(model)
    np.testing.assert_array_equal(converted(images(2, 4, 4, 8)), model(images(2, 4, 4, 8)))
    assert report.count("kept") == 3 and "each position" in changes(report)["norm"].reason
    converted, report = convert(model, groups=2, layer_normalization=True)
    norm, old = converted.get_layer("norm"), model.get_layer("norm")
    assert isinstance(norm, Fused) and norm.groups == 2
    np.testing.assert_array_equal(norm.gamma, old.gamma)
    np.testing.assert_array_equal(norm.beta, old.beta)
    assert "all positions" in changes(report)["norm"].reason
    assert {change.name for change in report.changes if change.action == "kept"} == {
        "all",
        "vector",
    }


def test_epsilon_of_choice():
    converted, _ = convert(resnet(batch_norm), epsilon=1e-5)
    assert {layer.epsilon for layer in converted.layers if isinstance(layer, Fused)} == {1e-5}


# Convolutions.


def after(layer, *following, shape=(8, 8, 4)):
    inputs = keras.Input(shape)
    x = layer(inputs)
    for other in following:
        x = other(x)
    return randomize(keras.Model(inputs, x))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv1D(8, 3, name="conv"), (8, 4)),
        (layers.Conv2D(8, 3, groups=2, activation="relu", name="conv"), (8, 8, 4)),
        (layers.Conv3D(8, 3, use_bias=False, name="conv"), (4, 4, 4, 4)),
        (layers.Conv1DTranspose(8, 3, name="conv"), (8, 4)),
        (layers.Conv2DTranspose(8, 3, strides=2, name="conv"), (8, 8, 4)),
        (layers.Conv3DTranspose(8, 3, name="conv"), (4, 4, 4, 4)),
        (layers.DepthwiseConv1D(3, name="conv"), (8, 4)),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, name="conv"), (8, 8, 4)),
        (layers.SeparableConv1D(8, 3, name="conv"), (8, 4)),
        (layers.SeparableConv2D(8, 3, name="conv"), (8, 8, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else "",
)
def test_every_convolution_is_standardized_with_its_own_weights(layer, shape):
    model = after(layer, layers.GroupNormalization(2, name="norm"), shape=shape)
    converted, report = convert(model, weight_standardization={"variant": "timm", "gain": True})
    wrapped = tfgn.layers.WeightStandardization(
        type(layer).from_config(layer.get_config()), "timm", name="by_hand"
    )
    wrapped.build((None, *shape))
    wrapped.layer.set_weights(layer.get_weights())
    x = images(2, *shape)
    y = model.get_layer("norm")(wrapped(x))
    np.testing.assert_allclose(converted(x), y, rtol=1e-3, atol=1e-4)
    assert changes(report)["conv"].action == "replaced"
    assert converted.get_layer("conv").use_gain


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda conv: after(conv), "leaves the model"),
        (lambda conv: after(conv, layers.Activation("sigmoid")), "leaves the model"),
        (lambda conv: after(conv, layers.Conv2D(2, 1), layers.BatchNormalization()), "next layer"),
        (lambda conv: after(conv, layers.Flatten(), layers.Dense(2)), "next layer"),
        (lambda conv: after(conv, layers.BatchNormalization()), None),
        (lambda conv: after(conv, layers.PReLU(), layers.BatchNormalization()), None),
        (lambda conv: after(conv, layers.MaxPooling2D(), layers.LayerNormalization()), None),
        (
            lambda conv: after(
                conv, keras.Sequential([layers.ReLU(), layers.BatchNormalization()])
            ),
            None,
        ),
        (lambda conv: after(conv, keras.Sequential([layers.Conv2D(4, 1)])), "next layer"),
        (lambda conv: after(keras.Sequential([conv]), layers.BatchNormalization()), None),
        (lambda conv: after(keras.Sequential([conv]), layers.Conv2D(2, 1)), "next layer"),
    ],
)
def test_only_convolutions_that_a_normalization_follows(model, reason):
    _, report = convert(model(layers.Conv2D(4, 3, name="conv")))
    (change,) = [c for name, c in changes(report).items() if name.endswith("conv")]
    assert (change.action == "replaced") == (reason is None)
    assert reason is None or reason in change.reason


def test_scaled_variants_need_no_normalization_but_leave_the_output():
    first, last = layers.Conv2D(4, 3, name="first"), layers.Conv2D(2, 1, name="last")
    _, report = convert(after(first, last), weight_standardization="nfnet")
    assert changes(report)["first"].action == "replaced"
    assert changes(report)["last"].action == "kept"


def test_every_path_must_meet_a_normalization():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    y = layers.BatchNormalization()(x)
    _, report = convert(keras.Model(inputs, layers.Concatenate()([x, y])))
    assert changes(report)["conv"].action == "kept"


def test_kernels_that_cannot_be_standardized():
    one_weight = layers.DepthwiseConv2D(1, name="one_weight")
    quantized = layers.Conv2D(4, 3, name="own_class")
    quantized.__class__ = type("Convolution", (layers.Conv2D,), {})
    done = tfgn.layers.StandardizedConv2D(4, 3, name="done")
    norms = [layers.BatchNormalization() for _ in range(3)]
    model = after(one_weight, norms[0], quantized, norms[1], done, norms[2])
    _, report = convert(model)
    assert "would be 0" in changes(report)["one_weight"].reason
    assert "Keras' own" in changes(report)["own_class"].reason
    assert "already" in changes(report)["done"].reason


def test_keep_by_name_and_by_function():
    model = resnet(batch_norm)
    for keep in (["stem", "norm0"], lambda layer: layer.name in ("stem", "norm0")):
        converted, report = convert(model, keep=keep)
        assert type(converted.get_layer("stem")) is layers.Conv2D
        assert type(converted.get_layer("norm0")) is layers.BatchNormalization
        assert report.count("replaced") == 9
        assert changes(report)["stem"].reason == "named in `keep`"
        assert "after it is kept" in changes(report)["conv0"].reason


class Frozen(layers.Layer):
    """A convolution and a batch normalization that is kept, in code of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(8, 3, name="own_conv")
        self.norm = layers.BatchNormalization(name="own_norm")

    def call(self, x):
        return self.norm(self.conv(x))


def kept_norms(layer):
    return layer.name.endswith("norm")


@pytest.mark.parametrize("norm", ["gn", None])
def test_convolutions_before_a_norm_that_is_kept_are_left(norm):
    """Its moving statistics are those of the kernel as it is."""
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, name="conv")(inputs))
    x = layers.TimeDistributed(layers.BatchNormalization(name="in_norm"))(
        layers.TimeDistributed(layers.Conv1D(8, 3, name="in_conv"))(x)
    )
    model = randomize(keras.Model(inputs, Frozen(name="own")(x)))
    for layer in model._flatten_layers():
        layer.trainable = not kept_norms(layer)
    converted, report = convert(model, norm=norm, keep=kept_norms if norm else ())
    assert report.count("replaced") == 0
    for name in ("conv", "in_conv", "own_conv"):
        assert "is kept" in next(c.reason for c in report.changes if c.name.endswith(name))
    np.testing.assert_array_equal(converted(images()), model(images()))


def test_convolutions_before_a_trained_norm_are_standardized_on_request():
    converted, report = convert(resnet(batch_norm), norm=None)
    assert report.count("replaced") == 6
    assert type(converted.get_layer("norm0")) is layers.BatchNormalization


def test_groups_of_few_numbers_are_warned_of():
    inputs = keras.Input((8, 8, 64))
    x = layers.BatchNormalization(name="enough")(inputs)
    x = layers.BatchNormalization(name="few")(layers.AveragePooling2D(4)(x))
    _, report = convert(keras.Model(inputs, x), groups=32)
    assert [note for note in report.notes if "few: 8" in note] == report.notes != []
    _, report = convert(keras.Model(inputs, x), groups=8)
    assert report.notes == []


def test_layers_with_a_lora_delta_are_left():
    model = resnet(stock_norm)
    model.get_layer("conv0").enable_lora(2)
    model.get_layer("conv0").lora_kernel_b.assign_add(
        np.ones(model.get_layer("conv0").lora_kernel_b.shape)
    )
    converted, report = convert(model, norm=None)
    assert "LoRA" in changes(report)["conv0"].reason
    np.testing.assert_allclose(
        converted.get_layer("conv0").kernel, model.get_layer("conv0").kernel, rtol=1e-6
    )
