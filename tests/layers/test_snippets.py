"""The models that people copy from tutorials, trained as they would train them."""

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = 3


@pytest.fixture
def stripes():
    """Noisy images whose class is the direction of their stripes; labels are integers."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=96)
    rows, columns = np.mgrid[:16, :16]
    patterns = np.sin(np.stack([rows, columns, rows + columns]) * 1.5)
    images = patterns[labels, ..., np.newaxis] + 0.3 * rng.normal(size=(96, 16, 16, 3))
    return images.astype("float32"), labels


@pytest.fixture
def sequences():
    """Noise around a level that tells the class."""
    rng = np.random.default_rng(1)
    labels = rng.integers(CLASSES, size=96)
    levels = np.eye(CLASSES, 8)[labels]
    x = levels[:, np.newaxis] + 0.3 * rng.normal(size=(96, 10, 8))
    return x.astype("float32"), labels


def fit(model, data, epochs=4):
    """Trains a classifier and checks that it learnt, in all its variables, and predicts so."""
    x, labels = data
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    before = [np.array(w) for w in model.trainable_variables]
    losses = model.fit(x, labels, batch_size=8, epochs=epochs, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0] and losses[-1] < 0.5 * np.log(CLASSES)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert np.abs(np.array(variable) - value).max() > 0, variable.path
    _, accuracy = model.evaluate(x, labels, verbose=0)
    assert accuracy > 0.9
    # Normalization per sample: no prediction depends on what else is in the batch.
    return model.predict(x[:8], verbose=0), model.predict(x[:1], batch_size=1, verbose=0)


def test_convolution_normalization_pooling_dense(stripes):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            tfgn.layers.GroupNormalization(8),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES),
        ]
    )
    many, one = fit(model, stripes)
    np.testing.assert_allclose(one, many[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_group_normalization_with_weight_standardization(stripes, policy):
    def convolution(filters, strides=1):
        layer = keras.layers.Conv2D(
            filters, 3, strides=strides, padding="same", use_bias=False, dtype=policy
        )
        return tfgn.layers.WeightStandardization(layer)

    def norm():
        return tfgn.layers.GroupNormalization(group_size=4, activation="relu", dtype=policy)

    inputs = keras.Input((None, None, 3))
    x = tfgn.layers.StandardizedConv2D(8, 3, padding="same", dtype=policy)(inputs)
    x = norm()(x)
    for filters in (8, 16):
        shortcut = tfgn.layers.StandardizedConv2D(filters, 1, strides=2, dtype=policy)(x)
        x = norm()(convolution(filters, strides=2)(x))
        x = norm()(convolution(filters)(x), residual=shortcut)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(x))
    many, one = fit(model, stripes)
    np.testing.assert_allclose(one, many[:1], rtol=1e-4, atol=1e-4 if policy == "float32" else 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_three_normalizations_side_by_side(norm, stripes, sequences):
    if norm == "layer":
        model = keras.Sequential(
            [
                keras.Input((None, 8)),
                keras.layers.LSTM(16, return_sequences=True),
                keras.layers.LayerNormalization(),
                keras.layers.LSTM(16),
                keras.layers.Dense(CLASSES),
            ]
        )
        fit(model, sequences)
        return
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(16, 3),
            keras.layers.BatchNormalization()
            if norm == "batch"
            else tfgn.layers.GroupNormalization(4),
            keras.layers.Activation("relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(CLASSES),
        ]
    )
    fit(model, stripes, epochs=6)
