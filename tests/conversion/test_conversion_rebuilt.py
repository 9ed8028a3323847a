"""`tfgn.convert`: models whose constructors cannot make them again, saved as their graph."""

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from composites import norm, register
from conversions import Fused, convert, images, randomize
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@register
class ChainOf(keras.Sequential):
    """In the style of the image encoder of Stable Diffusion in keras-cv."""

    def __init__(self, filters):
        steps = [layers.Conv2D(filters, 3), norm("gn", "norm"), layers.ReLU()]
        super().__init__([keras.Input((6, 6, 3)), *steps, layers.Dense(2)], name="mine")
        self.filters = filters
        self.first = self.layers[0]
        self.total = keras.metrics.Mean(name="total")

    def described(self):
        return f"{self.filters} {self.first.name} {self.total.name}"


@register
class NamedFunctional(keras.Model):
    def __init__(self, filters):
        inputs = keras.Input((6, 6, 3))
        x = norm("gn", "norm")(layers.Conv2D(filters, 3)(inputs))
        features = layers.ReLU(name="features")(x)
        super().__init__(inputs, layers.Dense(2)(features), name="mine")
        self.filters = filters
        self.taps = {"features": features}
        self.encoder = keras.Model(inputs, features, name="encoder")

    def described(self):
        return f"{self.filters} {self.name}"


@pytest.mark.parametrize("cls", [ChainOf, NamedFunctional])
def test_classes_that_no_config_describes_are_kept_with_their_graph(cls, tmp_path):
    model = randomize(cls(4))
    x = images(2, 6, 6, 3)
    converted, report = convert(model, weight_standardization=None)
    assert isinstance(converted, cls) and converted.described() == model.described()
    lost = "total" if cls is ChainOf else "encoder, taps"
    assert report.notes == [
        "mine is saved as its graph, because its constructor cannot make it again: the loaded "
        f"model lacks its {lost}"
    ]
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    if cls is NamedFunctional:
        np.testing.assert_allclose(converted.encoder(x), model.encoder(x), rtol=1e-4, atol=1e-5)
        tapped = keras.Model(converted.inputs, converted.taps["features"])([x])
        np.testing.assert_array_equal(tapped, converted.encoder(x))
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, cls) and loaded.filters == 4
    np.testing.assert_array_equal(loaded(x), converted(x))
    again, _ = convert(loaded, weight_standardization=None)
    assert isinstance(again, cls)
    np.testing.assert_array_equal(again(x), converted(x))
    before = np.array(model(x))
    same = tfgn.convert(model, in_place=True, weight_standardization=None, report=None)
    assert same is model and isinstance(model, cls)
    assert isinstance(model.get_layer("norm"), Fused)
    np.testing.assert_allclose(model(x), before, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), model(x))


def defined():
    """A class as a fresh process has it: Keras has not made a functional model of it yet."""

    @register
    class Defined(keras.Model):
        def __init__(self, filters):
            inputs = keras.Input((6, 6, 3))
            x = norm("gn", "norm")(layers.Conv2D(filters, 3)(inputs))
            super().__init__(inputs, layers.Dense(2)(x))

    return Defined


def test_classes_that_were_never_instantiated_load(tmp_path):
    model = randomize(defined()(4))
    converted, _ = convert(model)
    converted.save(tmp_path / "model.keras")
    again = defined()
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, again)
    x = images(2, 6, 6, 3)
    np.testing.assert_array_equal(loaded(x), converted(x))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), converted.predict(x, verbose=0))


def test_classes_that_are_not_registered_load_as_plain_models_with_a_warning(tmp_path):
    class Local(keras.Sequential):
        def __init__(self, filters):
            super().__init__([keras.Input((6, 6, 3)), layers.Dense(filters), norm("gn")])

    model = randomize(Local(4))
    converted, _ = convert(model)
    converted.save(tmp_path / "model.keras")
    x = images(2, 6, 6, 3)
    with pytest.warns(UserWarning, match="its class Local is not registered"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras.Sequential
    np.testing.assert_array_equal(loaded(x), converted(x))
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Local": Local})
    assert isinstance(loaded, Local)
    np.testing.assert_array_equal(loaded(x), converted(x))


def test_attributes_that_cannot_be_copied_are_refused():
    class WithVariable(keras.Sequential):
        def __init__(self, filters):
            super().__init__([keras.Input((6, 6, 3)), layers.Dense(filters), norm("gn")])
            self.scale = keras.Variable([1.0], name="scale")

    with pytest.raises(ValueError, match="cannot be copied.*it holds <Variable.*in_place=True"):
        tfgn.convert(WithVariable(4))
