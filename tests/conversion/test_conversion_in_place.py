"""`tfgn.convert(model, in_place=True)`, for models without a config too."""

import functools

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from composites import Nested, batch, check_loads, functional, norm, normalizations
from conversions import Fused, images, randomize
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Vae(keras.Model):
    """In the style of keras.io: a model of two models."""

    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        self.tracker = keras.metrics.Mean(name="total")

    def call(self, x):
        return self.decoder(self.encoder(x))


def make_vae():
    inputs = keras.Input((6, 6, 4))
    encoder = keras.Model(inputs, norm("gn", "first")(layers.Conv2D(4, 3)(inputs)))
    decoder = keras.Sequential([keras.Input((4, 4, 4)), norm("gn", "second"), layers.ReLU()])
    model = Vae(encoder, decoder)
    model(images(2, 6, 6, 4))
    return randomize(model)


class NoConfig(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = norm("gn", "norm")

    def call(self, x):
        return self.norm(x)


class RaisingConfig(NoConfig):
    def get_config(self):
        raise RuntimeError("not today")


def no_config(cls):
    model = cls()
    model(images(2, 6, 6, 4))
    return randomize(model)


@pytest.mark.parametrize(
    "make",
    [
        make_vae,
        functools.partial(no_config, NoConfig),
        functools.partial(no_config, RaisingConfig),
    ],
)
def test_models_without_a_config_are_converted_in_place(make, tmp_path):
    model = make()
    model.compile("sgd", "mse")
    x = images(2, 6, 6, 4)
    before = np.array(model(x))
    with pytest.raises(ValueError, match="cannot be copied.*in_place=True"):
        tfgn.convert(model)
    assert not any(isinstance(layer, Fused) for layer in model._flatten_layers())
    converted = tfgn.convert(model, in_place=True, weight_standardization=None, report=None)
    assert converted is model and model.compiled
    assert all(isinstance(layer, Fused) for layer in normalizations(model))
    np.testing.assert_allclose(model(x), before, rtol=1e-4, atol=1e-5)
    history = model.fit(x, np.zeros(before.shape), verbose=0)
    assert np.isfinite(history.history["loss"][0])
    if make is make_vae or make.args[0] is RaisingConfig:
        with pytest.raises(NotImplementedError, match="was converted and cannot be saved"):
            model.save(tmp_path / "model.keras")


@pytest.mark.slow
def test_in_place_conversion_of_a_functional_model(tmp_path):
    model = randomize(functional(Nested(kind="gn", name="own")))
    x = batch(model)
    before, feature = np.array(model(x)), model.get_layer("own").output
    converted = tfgn.convert(model, in_place=True, weight_standardization=None, report=None)
    assert converted is model and model.get_layer("own").output is feature
    np.testing.assert_allclose(model(x), before, rtol=1e-4, atol=1e-5)
    check_loads(model, x, tmp_path)
