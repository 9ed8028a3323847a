"""What `save_memory` takes for kept is what the graph of a training step keeps."""

import keras
import pytest
import tensorflow_groupnorm as tfgn
from conversions import Fused, convert
from kept_tensors import kept_bytes
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SHAPE = (8, 8, 8)
BATCH = 4
#: Bytes of the output of a normalization; its statistics take 128.
OUTPUT = BATCH * 8 * 8 * 8 * 4

KEPT_BY_NOTHING = {
    "Add": lambda x, y: layers.Add()([x, y]),
    "Average": lambda x, y: layers.Average()([x, y]),
    "Subtract": lambda x, y: layers.Subtract()([x, y]),
    "Concatenate": lambda x, y: layers.Concatenate()([x, y]),
    "Dropout": lambda x, y: layers.Dropout(0.5)(y),
    "SpatialDropout2D": lambda x, y: layers.SpatialDropout2D(0.5)(y),
    "GaussianNoise": lambda x, y: layers.GaussianNoise(0.5)(y),
    "ZeroPadding2D and MaxPooling2D": lambda x, y: layers.MaxPooling2D()(layers.ZeroPadding2D()(y)),
    "Cropping2D": lambda x, y: layers.Cropping2D()(y),
    "AveragePooling2D": lambda x, y: layers.AveragePooling2D(2)(y),
    "UpSampling2D": lambda x, y: layers.UpSampling2D(2)(y),
    "Permute": lambda x, y: layers.Permute((2, 1, 3))(y),
    "Reshape": lambda x, y: layers.Reshape((4, 16, 8))(y),
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: y - x,
    "concatenate": lambda x, y: keras.ops.concatenate([y, x], axis=1),
    "mean": lambda x, y: x + keras.ops.mean(y, axis=(1, 2), keepdims=True),
    "residual": lambda x, y: Fused(4)(x, residual=y),
}
KEPT = {
    "Conv2D": lambda x, y: layers.Conv2D(8, 3, activation="relu")(y),
    "MaxPooling2D": lambda x, y: layers.MaxPooling2D()(y),
    "Multiply": lambda x, y: layers.Multiply()([x, y]),
    "multiply": lambda x, y: x * y,
    "LayerNormalization": lambda x, y: layers.LayerNormalization()(y),
    "normalization": lambda x, y: Fused(2)(y),
    "residual and activation": lambda x, y: Fused(2, activation="relu")(x, residual=y),
    "residual of a pair": lambda x, y: tfgn.layers.RecomputedNormalization(
        Fused(4), layers.Conv2D(8, 3, padding="same")
    )(x, residual=y),
    "bilinear": lambda x, y: layers.UpSampling2D(interpolation="bilinear")(y),
    "Reshape and MaxPooling2D": lambda x, y: layers.MaxPooling2D()(layers.Reshape((4, 16, 8))(y)),
}


def model_of(read):
    """Returns a classifier in which `read` reads a tensor and the output of a normalization."""
    inputs = keras.Input(SHAPE)
    before = layers.DepthwiseConv2D(1)(inputs)
    y = Fused(4, activation="silu", name="norm")(before)
    x = layers.GlobalAveragePooling2D()(read(before, y))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def reason(model):
    _, report = convert(model, norm=None, weight_standardization=None, save_memory=True)
    (change,) = [c for c in report.changes if c.name == "norm" and "paired" in c.action]
    assert change.action == "not paired"
    return change.reason


@pytest.mark.parametrize("reader", KEPT_BY_NOTHING)
def test_kept_by_nothing(reader):
    model = model_of(KEPT_BY_NOTHING[reader])
    # A normalization in `read` keeps its statistics, too.
    assert 128 <= kept_bytes(model, BATCH)["GroupNorm"] <= 512
    assert reason(model) == "nothing keeps its output for the backward pass"


@pytest.mark.parametrize("reader", KEPT)
def test_kept(reader):
    model = model_of(KEPT[reader])
    assert kept_bytes(model, BATCH)["GroupNorm"] >= OUTPUT
    assert "keep" in reason(model) and "nothing keeps" not in reason(model)


@pytest.mark.parametrize("reader", [*KEPT_BY_NOTHING, None])
def test_a_pair_keeps_nothing_between_its_layers(reader):
    def read(x, y):
        read_by_conv = layers.Conv2D(8, 3, padding="same")(y)
        if reader is None:
            return read_by_conv
        other = KEPT_BY_NOTHING[reader](x, y)
        pooled = [layers.GlobalAveragePooling2D()(z) for z in (read_by_conv, other)]
        return layers.Reshape((1, 1, -1))(layers.Concatenate()(pooled))

    model = model_of(read)
    new, report = convert(model, norm=None, weight_standardization=None, save_memory=True)
    assert report.count("paired") == 1
    assert kept_bytes(model, BATCH)["GroupNorm"] >= OUTPUT
    assert kept_bytes(new, BATCH)["GroupNorm"] <= 512


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_pair_with_a_residual_saves_memory(kept, activation):
    def read(x, y):
        z = Fused(4, activation=activation, name="adds")(x, residual=y)
        z = layers.Conv2D(8, 3, padding="same")(z)
        return layers.Add()([z, layers.Multiply()([x, y])]) if kept else z

    model = model_of(read)
    new, report = convert(model, norm=None, weight_standardization=None, save_memory=True)
    of_adds = next(c for c in report.changes if c.name == "adds")
    saves = kept or activation is not None
    assert (of_adds.action == "paired") == saves
    if not saves:
        assert of_adds.reason == "the pair would keep its residual instead of its output"
    before, after = (kept_bytes(m, BATCH)["GroupNorm"] for m in (model, new))
    assert before - after >= OUTPUT if saves else before == after
