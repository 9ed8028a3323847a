"""`tfgn.convert(model, save_memory=True)` on the models of `keras.applications`, and on U-Nets."""

import collections

import keras
import pytest
import tensorflow_groupnorm as tfgn
from conversions import convert, images, randomize
from keras import layers
from pairs import Pair, check_equal, check_round_trip, paired, pairs

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

INSTEAD = "the pair would keep its residual instead of its output"
NOTHING = "nothing keeps its output for the backward pass"
RESIDUAL = "another GroupNormalization keeps its output as a residual"
RELU6 = "ReLU comes after it, an activation that the fused op does not have"
#: For each model, the readers of the pairs, and the reasons for what is not paired.
EXPECTED = {
    # Each convolution in a block, and two convolutions at the start of three stages.
    "ResNet50": ({"StandardizedConv2D": 35}, {RESIDUAL: 16, NOTHING: 2}),
    "ResNet50V2": ({"StandardizedConv2D": 48}, {NOTHING: 1}),
    "DenseNet121": ({"StandardizedConv2D": 119}, {NOTHING: 2}),
    # The linear bottlenecks.
    "MobileNetV2": ({"StandardizedConv2D": 7}, {RELU6: 35, INSTEAD: 10}),
    "EfficientNetB0": (
        {"StandardizedDepthwiseConv2D": 16, "StandardizedConv2D": 7},
        {"Multiply keeps its output": 16, NOTHING: 10},
    ),
    # The last layer of the stem, a model of its own, is read outside of it.
    "ConvNeXtTiny": (
        {"Dense": 18, "Conv2D": 3},
        {"StandardizedConv2D keeps its output": 1},
    ),
}
QUICK = ("ResNet50V2", "MobileNetV2")


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    keras.backend.clear_session()


def outcome(report):
    """Returns how many normalizations were paired with which layers, or not and why."""
    found = collections.defaultdict(collections.Counter)
    for change in report.changes:
        result = change.result.removeprefix("RecomputedNormalization with ")
        found[change.action][result or change.reason] += 1
    return found["paired"], found["not paired"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.thorough) for n in EXPECTED],
)
def test_applications(name, tmp_path):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(32, 32, 3), classes=4)
    x = images(2, 32, 32, 3)
    converted = []
    for save_memory in (False, True):
        keras.utils.set_random_seed(0)  # The seeds of dropout.
        new, report = convert(model, groups=8, layer_normalization=True, save_memory=save_memory)
        converted.append(new)
    plain, new = converted
    assert outcome(report) == EXPECTED[name]
    assert len(pairs(new)) == report.count("paired")
    inside = [len(layer.layers) for layer in new.layers if isinstance(layer, Pair)]
    assert len(plain.layers) - len(new.layers) == sum(inside)
    if name != "ConvNeXtTiny":  # Its layer scales are variables without names of their own.
        check_equal(plain, new, x)
    check_round_trip(new, x, tmp_path)


def conv_norm(x, filters, name, **kwargs):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv", **kwargs)(x)
    norm = tfgn.layers.GroupNormalization(4, activation="relu", name=name)
    return norm(x)


def unet(down):
    """A U-Net with skips, whose output is a convolution after a normalization."""
    x = inputs = keras.Input((16, 16, 3))
    skips = []
    for level, filters in enumerate((8, 16)):
        x = conv_norm(x, filters, f"down{level}_a")
        x = conv_norm(x, filters, f"down{level}_b")
        skips.append(x)
        x = down(filters, level)(x)
    x = conv_norm(x, 32, "bottom")
    for level, filters in ((1, 16), (0, 8)):
        x = layers.Conv2DTranspose(filters, 2, strides=2, name=f"up{level}")(x)
        x = layers.Concatenate(name=f"join{level}")([x, skips[level]])
        x = conv_norm(x, filters, f"up{level}_a")
    return keras.Model(inputs, layers.Conv2D(2, 1, name="mask")(x), name="unet")


def test_unet_with_strides(tmp_path):
    def down(filters, level):
        return layers.Conv2D(filters, 3, strides=2, padding="same", name=f"stride{level}")

    model = randomize(unet(down))
    new, report = paired(model, images(2, 16, 16, 3), norm=None, weight_standardization=None)
    assert outcome(report) == ({"Conv2D": 5, "Conv2DTranspose": 2}, {})
    skip = next(pair for pair in pairs(new) if pair.name == "down0_b")
    # The strided convolution, and the normalized tensor itself for the skip.
    assert [layer.name for layer in skip.layers] == ["stride0"]
    assert len(skip.output) == 2
    assert new.output_names == ["mask"] and type(new.get_layer("mask")) is layers.Identity
    check_round_trip(new, images(2, 16, 16, 3), tmp_path)


def test_unet_with_pooling():
    model = randomize(unet(lambda filters, level: layers.MaxPooling2D(name=f"pool{level}")))
    _, report = paired(model, images(2, 16, 16, 3), weight_standardization=None)
    assert outcome(report) == (
        {"Conv2D": 3, "Conv2DTranspose": 2},
        {"MaxPooling2D keeps its output": 2},
    )


def test_three_dimensions(tmp_path):
    x = inputs = keras.Input((6, 6, 6, 2))
    for i in range(2):
        x = tfgn.layers.StandardizedConv3D(8, 3, padding="same", name=f"conv{i}")(x)
        x = tfgn.layers.GroupNormalization(4, activation="silu", name=f"norm{i}")(x)
    model = randomize(keras.Model(inputs, layers.Conv3D(2, 1)(x)))
    new, report = paired(model, images(1, 6, 6, 6, 2), norm=None, weight_standardization=None)
    assert report.count("paired") == 2
    check_round_trip(new, images(1, 6, 6, 6, 2), tmp_path)
