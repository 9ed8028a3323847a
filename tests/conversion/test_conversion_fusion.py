"""`tfgn.convert`: the activations and additions that normalizations take in."""

import keras
import numpy as np
import pytest
from conversions import batch_norm, changes, convert, images, randomize, resnet
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def fusion_case(build, **options):
    """Converts a model of one stock norm; checks its outputs; returns the norm and the report."""
    inputs = keras.Input((4, 4, 8))
    outputs = build(inputs, layers.GroupNormalization(2, name="norm"))
    # A layer behind it: what gives an output of a model is not fused.
    model = randomize(keras.Model(inputs, layers.Dense(3)(outputs)))
    converted, report = convert(model, weight_standardization=None, **options)
    x = images(2, 4, 4, 8)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    return converted, report


def test_residual_on_either_side_and_as_an_operator():
    for build in (
        lambda x, norm: layers.Add()([norm(x), x]),
        lambda x, norm: layers.Add()([x, norm(x)]),
        lambda x, norm: norm(x) + x,
        lambda x, norm: x + norm(x),
    ):
        _, report = fusion_case(build)
        assert report.count("fused") == 1


def test_calls_by_keyword():
    _, report = fusion_case(lambda x, norm: layers.ReLU()(inputs=norm(inputs=x)))
    assert report.count("fused") == 1
    _, report = fusion_case(lambda x, norm: layers.ReLU()(layers.Add()(inputs=[x, norm(x)])))
    assert report.count("fused") == 2
    _, report = fusion_case(lambda x, norm: keras.ops.add(x1=x, x2=norm(x)))
    assert report.count("fused") == 1


@pytest.mark.parametrize(
    "activation",
    [
        layers.ReLU,
        lambda: keras.activations.relu,
        lambda: keras.ops.relu,
        lambda: layers.Activation("swish"),
        lambda: keras.ops.silu,
    ],
)
def test_activations_that_are_fused(activation):
    converted, report = fusion_case(lambda x, norm: activation()(norm(x) + x))
    assert report.count("fused") == 2
    assert len(converted.operations) == 3


@pytest.mark.parametrize(
    "build",
    [
        lambda x, norm: layers.ReLU(6.0)(norm(x)),
        lambda x, norm: layers.ReLU(negative_slope=0.1)(norm(x)),
        lambda x, norm: layers.ReLU(threshold=0.5)(norm(x)),
        lambda x, norm: layers.Activation("tanh")(norm(x)),
        lambda x, norm: (lambda y: y + y)(norm(x)),
        lambda x, norm: (lambda y: layers.ReLU()(y) * y)(norm(x)),
        lambda x, norm: (lambda y: layers.Add()([y, x]) * y)(norm(x)),
        lambda x, norm: layers.Add()([norm(x), x, x]),
        lambda x, norm: norm(x) + 1.0,
        lambda x, norm: layers.Add()([norm(x), layers.GlobalAveragePooling2D(keepdims=True)(x)]),
        lambda x, norm: layers.Subtract()([x, norm(x)]),
        lambda x, norm: (lambda relu: relu(norm(x)) + relu(x))(layers.ReLU()),
        lambda x, norm: norm(norm(x)),
    ],
)
def test_what_looks_alike_is_not_fused(build):
    _, report = fusion_case(build)
    assert report.count("replaced") == 1 and report.count("fused") == 0


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (layers.ReLU(6.0, name="activation"), "max_value=6: the fused op has ReLU and SiLU"),
        (layers.ReLU(negative_slope=0.1, name="activation"), "negative_slope=0.1: the fused op"),
        (layers.Activation("hard_silu", name="activation"), "hard_silu: the fused op has"),
        (layers.LeakyReLU(name="activation"), "LeakyReLU: the fused op has"),
        (
            layers.ReLU(activity_regularizer="l2", name="activation"),
            "it has an activity regularizer",
        ),
    ],
)
def test_activations_that_are_kept_are_named(activation, reason):
    _, report = fusion_case(lambda x, norm: activation(norm(x) + x))
    change = changes(report)["activation"]
    assert change.action == "kept" and change.reason.startswith(reason)
    assert report.count("fused") == 1


def test_activation_before_the_addition_is_fused_without_it():
    converted, report = fusion_case(lambda x, norm: layers.ReLU()(norm(x)) + x)
    assert report.count("fused") == 1
    assert converted.get_layer("norm").activation is keras.activations.relu


def test_one_of_two_normalizations_takes_their_sum():
    def build(x, norm):
        other = layers.GroupNormalization(4, name="other")
        return layers.ReLU()(layers.Add()([other(x), norm(x)]))

    _, report = fusion_case(build)
    assert report.count("replaced") == 2 and report.count("fused") == 2


def test_fuse_off_keeps_every_layer():
    model = resnet(batch_norm)
    converted, report = convert(model, fuse=False)
    assert report.count("fused") == 0
    assert [layer.name for layer in converted.layers] == [layer.name for layer in model.layers]


def test_operation_that_gives_an_output_stays_and_keeps_its_name():
    inputs = keras.Input((4, 4, 8))
    x = layers.BatchNormalization(name="norm")(inputs)
    model = keras.Model(inputs, layers.ReLU(name="out")(x))
    converted, report = convert(model)
    assert converted.output_names == model.output_names == ["out"]
    assert report.count("fused") == 0


def test_normalization_whose_output_is_an_output_takes_nothing_in():
    inputs = keras.Input((4, 4, 8))
    x = layers.GroupNormalization(2)(inputs)
    model = randomize(keras.Model(inputs, [x, layers.Dense(2)(layers.ReLU()(x))]))
    converted, report = convert(model, weight_standardization=None)
    assert report.count("fused") == 0
    x = images(2, 4, 4, 8)
    for actual, expected in zip(converted(x), model(x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_mixed_precision_is_fused_and_an_addition_in_another_dtype_is_not():
    for dtype, fused in (("mixed_bfloat16", 1), ("float32", 0)):
        inputs = keras.Input((4, 4, 8))
        x = layers.Conv2D(8, 1, dtype="mixed_bfloat16")(inputs)
        y = layers.BatchNormalization(dtype="mixed_bfloat16", name="norm")(x)
        y = layers.Add(dtype=dtype)([x, y])
        converted, report = convert(keras.Model(inputs, layers.Dense(2)(y)))
        assert report.count("fused") == fused
        assert converted.get_layer("norm").compute_dtype == "bfloat16"
        assert converted(images(2, 4, 4, 8)).dtype == "float32"
