"""`tfgn.convert(model, save_memory=True)`: what is paired, what is not, and why."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from conversions import Fused, batch_norm, convert, images, randomize, resnet, stock_norm
from keras import layers
from pairs import (
    ONLY_PAIRS,
    answer,
    check_equal,
    check_round_trip,
    conv,
    norm,
    paired,
    pairs,
)
from training_steps import training_step

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def model_of(body, shape=(8, 8, 3), norm=norm):
    """Returns a model in which `body` makes the outputs of what the layer "norm" returns."""
    inputs = keras.Input(shape)
    y = norm()(layers.Dense(8, name="before")(inputs))
    return randomize(keras.Model(inputs, body(y)))


def test_residual_network(tmp_path):
    model = randomize(resnet(batch_norm))
    new, report = paired(model, images(), groups=4)
    assert [layer.name for layer in pairs(new)] == ["norm0", "last_norm0", "norm1"]
    # Read by the convolution of the next block and by its projection.
    assert {layer.name for layer in pairs(new)[1].layers} == {"conv1", "proj1"}
    reason = "another GroupNormalization keeps its output as a residual"
    assert answer(report, "stem_norm") == ("not paired", "", reason)
    assert answer(report, "norm0") == (
        "paired",
        "RecomputedNormalization with StandardizedConv2D",
        "",
    )
    assert answer(report, "proj_norm1")[2] == "nothing keeps its output for the backward pass"
    first, *_ = str(report).splitlines()
    assert first == "Conversion of small: 12 replaced, 7 fused, 1 kept, 3 paired, 3 not paired"
    assert new.output_names == model.output_names
    check_round_trip(new, images(), tmp_path)


def test_without_save_memory_the_report_is_silent_about_pairs():
    _, report = convert(resnet(batch_norm), groups=4)
    assert "paired" not in str(report)
    assert not any("paired" in change.action for change in report.changes)


def test_stock_group_normalization_is_replaced_first():
    model = randomize(resnet(stock_norm))
    _, report = paired(model, images(), weight_standardization=None)
    assert report.count("paired") == 3
    _, report = convert(model, save_memory=True, **ONLY_PAIRS)
    action, _, reason = answer(report, "norm0")
    assert action == "not paired"
    assert reason == "only tfgn.layers.GroupNormalization computes its output again"


def padded(y):
    return conv(padding="valid")(layers.ZeroPadding2D()(y))


def pooled(y):
    return conv(size=1)(layers.AveragePooling2D(2)(layers.Cropping2D()(y)))


def flat(y):
    return layers.Dense(3)(layers.Flatten()(y))


def standardized(y):
    return tfgn.layers.StandardizedConv2D(4, 3, use_bias=False)(y)


def wrapped(y):
    return tfgn.layers.WeightStandardization(layers.SeparableConv2D(4, 3, name="inner"))(y)


def several(y):
    a = conv(4, 1, name="a")(y)
    b = padded(y)
    return layers.GlobalAveragePooling2D()(layers.Concatenate()([a, b]))


def skipping(y):
    return layers.Add()([conv(8)(y), y])


def dropped(y):
    return layers.Concatenate()([conv(8)(y), layers.Dropout(0.5, seed=3)(y)])


def merged(y):
    return conv(2)(y) + keras.ops.mean(y, -1, keepdims=True)


def several_outputs(y):
    return {"mask": conv(2, 1, name="mask")(y), "features": y, "scores": conv(3, name="scores")(y)}


def upsampled(y):
    return conv(4)(layers.UpSampling2D()(y))


@pytest.mark.parametrize(
    ("body", "readers"),
    [
        (conv(), 1),
        (conv(strides=2, kernel_regularizer="l2"), 1),
        (layers.Conv2DTranspose(4, 2, strides=2), 1),
        (layers.DepthwiseConv2D(3), 1),
        (layers.Dense(4, use_bias=False), 1),
        (layers.EinsumDense("abcd,de->abce", (None, None, 4)), 1),
        *((padded, 1), (pooled, 1), (flat, 1), (standardized, 1), (wrapped, 1), (upsampled, 1)),
        *((several, 2), (skipping, 2), (dropped, 2), (merged, 2), (several_outputs, 3)),
    ],
)
@pytest.mark.parametrize("activation", ["silu", None])
def test_readers(body, readers, activation, tmp_path):
    if isinstance(body, keras.Layer):
        body = body.__class__.from_config(body.get_config())
    model = model_of(body, norm=lambda: norm(activation=activation))
    new, report = paired(model, images(), **ONLY_PAIRS)
    (pair,) = pairs(new)
    outputs = keras.tree.flatten(pair.compute_output_spec(keras.KerasTensor((2, 8, 8, 8))))
    assert len(outputs) == readers
    assert answer(report)[1].startswith("RecomputedNormalization with ")
    assert new.output_names == model.output_names and new.name == model.name
    if readers == 1:
        assert [v.name for v in new.weights] == [v.name for v in model.weights]
    check_round_trip(new, images(), tmp_path)


def test_gradients_of_three_readers_are_added_in_some_order():
    def body(y):
        return layers.Concatenate()([layers.Add()([conv(8)(y), y]), conv(2)(y)])

    model = model_of(body)
    plain, _ = convert(model, **ONLY_PAIRS)
    new, report = convert(model, save_memory=True, **ONLY_PAIRS)
    assert report.count("paired") == 1
    (outputs, loss, expected), (same, equal, actual) = (
        training_step(m, images()) for m in (plain, new)
    )
    np.testing.assert_array_equal(same, outputs)
    assert equal == loss
    for path, gradient in expected.items():
        np.testing.assert_allclose(actual[path], gradient, rtol=1e-4, atol=1e-5)


def twice(y):
    shared = conv(8, 1)
    return layers.Add()([shared(y), shared(shared(y))])


def rematerialized(y):
    with keras.RematScope("full"):
        return conv()(y)


KEPT = {
    "max_pool": (lambda y: [conv()(y), layers.MaxPooling2D()(y)], "MaxPooling2D keeps its output"),
    "product": (lambda y: layers.Multiply()([conv()(y), y]), "Multiply keeps its output"),
    "operation": (lambda y: conv()(y) * y, "the operation Multiply may keep its output"),
    "activation": (
        lambda y: conv()(layers.Activation("gelu")(y)),
        "Activation comes after it, an activation that the fused op does not have",
    ),
    "own_layer": (
        lambda y: conv()(layers.ReLU()(y)),
        "ReLU comes after it: it is computed again only as the normalization's own",
    ),
    "view": (
        lambda y: [conv()(y), layers.LayerNormalization()(layers.Reshape((64, 8))(y))],
        "LayerNormalization keeps its output",
    ),
    "bilinear": (
        lambda y: [conv()(y), layers.UpSampling2D(interpolation="bilinear")(y)],
        "UpSampling2D with bilinear interpolation keeps its output",
    ),
    "norm": (
        lambda y: [conv()(y), norm("other")(y)],
        "another GroupNormalization keeps its output",
    ),
    "own_activation": (
        conv(activation="relu"),
        "Conv2D keeps its output, and its activation relu is not linear",
    ),
    "activity_regularizer": (
        conv(activity_regularizer="l2"),
        "Conv2D keeps its output, and it has an activity regularizer",
    ),
    "shared": (twice, "Conv2D keeps its output, and is shared"),
    "remat": (rematerialized, "Conv2D reads its output under a RematScope"),
    "nested": (
        lambda y: keras.Sequential([keras.Input(y.shape[1:]), conv()], name="inner")(y),
        "the model inner may keep its output",
    ),
    "nothing": (layers.GlobalAveragePooling2D(), "nothing keeps its output for the backward pass"),
    "head": (
        lambda y: layers.Dense(3)(layers.GlobalAveragePooling2D()(y)),
        "nothing keeps its output for the backward pass",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_why_a_reader_is_not_paired(case):
    body, reason = KEPT[case]
    new, report = convert(model_of(body), save_memory=True, **ONLY_PAIRS)
    action, result, text = answer(report)
    assert (action, result) == ("not paired", "")
    assert reason in text
    assert all(layer.normalization.name != "norm" for layer in pairs(new))


def in_remat_scope():
    with keras.RematScope("full"):
        return norm()


class OwnCall(Fused):
    def call(self, inputs):
        return super().call(inputs)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: norm(activation="gelu"), "its activation gelu is not part of the op"),
        (lambda: norm(activity_regularizer="l2"), "it has an activity regularizer"),
        (in_remat_scope, "it is under a RematScope"),
        (lambda: OwnCall(4, name="norm"), "OwnCall overrides call()"),
    ],
)
def test_why_a_normalization_is_not_paired(make, reason):
    new, report = convert(model_of(conv(), norm=make), save_memory=True, **ONLY_PAIRS)
    assert reason in answer(report)[2] and not pairs(new)


def test_a_mask_keeps_a_normalization_from_being_paired():
    inputs = keras.Input((6, 4))
    x = norm()(layers.Masking()(inputs))
    model = keras.Model(inputs, layers.Dense(4)(x))
    _, report = convert(model, save_memory=True, **ONLY_PAIRS)
    assert answer(report)[2] == "a mask reaches it"


def test_keep():
    model = model_of(conv(name="conv"))
    _, report = convert(model, save_memory=True, keep=["norm"], **ONLY_PAIRS)
    assert answer(report)[2] == "named in `keep`"
    _, report = convert(model, save_memory=True, keep=["conv"], **ONLY_PAIRS)
    assert answer(report)[2] == "Conv2D, named in `keep`, keeps its output"


def test_sequential(tmp_path):
    parts = [norm("a"), conv(), norm("b"), layers.ZeroPadding2D(), conv(), norm("c"), conv()]
    model = randomize(keras.Sequential([keras.Input((8, 8, 4)), *parts], name="rows"))
    new, report = paired(model, images(2, 8, 8, 4), **ONLY_PAIRS)
    assert type(new) is keras.Sequential
    assert [layer.name for layer in pairs(new)] == ["a", "c"]
    assert new.layers[-1].name == model.layers[-1].name
    assert answer(report, "b")[2].startswith("in a Sequential model, only the layer directly after")
    check_round_trip(new, images(2, 8, 8, 4), tmp_path)
    new.add(layers.ReLU())
    assert new(images(2, 8, 8, 4)).shape == (2, 10, 10, 8)


def backbone(shape=(8, 8, 4)):
    """A nested model with an inner pair, and three outputs: read by convolutions, pooled, added."""
    inputs = keras.Input(shape)
    x = conv()(norm("inside")(inputs))
    outputs = [norm(name)(x) for name in ("kept", "pooled", "added")]
    further = conv(name="further")(outputs[2])
    return keras.Model(inputs, [*outputs, further], name="backbone")


def test_nested_models(tmp_path):
    inputs = keras.Input((8, 8, 4))
    a, b, c, d = backbone()(inputs)
    head = keras.Sequential([keras.Input((8, 8, 8)), norm("top"), conv(2)], name="head")
    outputs = [head(conv()(a)), layers.GlobalAveragePooling2D()(b), layers.Add()([c, d])]
    model = randomize(keras.Model(inputs, outputs))
    new, report = paired(model, images(2, 8, 8, 4), **ONLY_PAIRS)
    assert [answer(report, name)[0] for name in ("backbone/inside", "backbone/added", "head/top")]
    assert {layer.normalization.name for layer in pairs(new)} == {"inside", "added", "top"}
    assert answer(report, "backbone/kept")[2] == "Conv2D keeps its output"
    assert answer(report, "backbone/pooled")[2] == "nothing keeps its output for the backward pass"
    assert new.get_layer("backbone").output_names == model.get_layer("backbone").output_names
    check_round_trip(new, images(2, 8, 8, 4), tmp_path)


def test_an_output_of_a_model_that_is_called_twice_may_be_kept():
    inputs = keras.Input((8, 8, 4))
    x = norm()(inputs)
    shared = keras.Model(inputs, [x, conv(4)(x)], name="shared")
    x = keras.Input((8, 8, 4))
    model = keras.Model(x, [shared(x), shared(conv(4)(x))])
    new, report = convert(model, save_memory=True, **ONLY_PAIRS)
    reason = "it is an output of shared, and what reads it there is not known"
    assert answer(report, "shared/norm")[2] == reason and not pairs(new)


def test_clones_and_pickles_are_paired_too():
    new, _ = convert(randomize(resnet(batch_norm)), groups=4, save_memory=True)
    clone = keras.models.clone_model(new)
    clone.set_weights(new.get_weights())
    for other in (clone, pickle.loads(pickle.dumps(new))):
        assert len(pairs(other)) == 3
        np.testing.assert_array_equal(other(images()), new(images()))


def test_second_call(tmp_path):
    model = randomize(resnet(batch_norm))
    once, _ = convert(model, groups=4, save_memory=True)
    for arguments in ({"save_memory": True}, {}, ONLY_PAIRS, {"groups": 2, "save_memory": True}):
        again, report = convert(once, **arguments)
        assert report.count("replaced") == report.count("paired") == 0
        assert [v.path for v in again.weights] == [v.path for v in once.weights]
        assert [layer.name for layer in pairs(again)] == [layer.name for layer in pairs(once)]
        check_equal(once, again, images())
    check_round_trip(again, images(), tmp_path)


def test_pairs_of_a_model_that_is_converted_already():
    model, _ = convert(randomize(resnet(batch_norm)), groups=4)
    new, report = paired(model, images(), **ONLY_PAIRS)
    assert (report.count("paired"), report.count("not paired")) == (3, 3)


def test_conversion_around_and_inside_pairs(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = norm("old")(conv(8, name="before")(inputs))
    x = layers.BatchNormalization(name="new")(conv(8, name="inside")(x))
    x = conv(2, name="last")(x)
    model, _ = convert(randomize(keras.Model(inputs, x)), save_memory=True, **ONLY_PAIRS)
    (pair,) = pairs(model)
    new, report = paired(model, images(), groups=2)
    assert type(pairs(new)[0].layers[0]) is tfgn.layers.StandardizedConv2D
    assert [layer.normalization.groups for layer in pairs(new)] == [4, 2]
    assert report.count("replaced") == 3 and report.count("paired") == 1
    kept = {c.name: c.reason for c in report.changes if c.action == "kept"}
    assert kept["old/old"] == "fused already"
    assert kept["last"] == "its output leaves the model without a normalization"
    check_round_trip(new, images(), tmp_path)
