"""`tfgn.convert`: functional and `Sequential` models of the user's own classes."""

import zipfile

import keras
import numpy as np
import pytest
from composites import check_loads, norm, register
from conversions import Fused, convert, images, randomize
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@register
class Backbone(keras.Model):
    """A functional model that its constructor makes, with methods and tensors in attributes."""

    def __init__(self, filters=4, kind="bn", **kwargs):
        inputs = keras.Input((6, 6, 3))
        x, outputs = inputs, {}
        for level in ("P1", "P2"):
            x = layers.Conv2D(filters, 3, padding="same", name=f"{level}_conv")(x)
            x = layers.ReLU(name=f"{level}_relu")(norm(kind, f"{level}_norm")(x))
            outputs[level] = x
        super().__init__(inputs, layers.Conv2D(2, 1, name="last")(x), **kwargs)
        self.filters = filters
        self.kind = kind
        self.pyramid_outputs = outputs
        self.first_norm = self.get_layer("P1_norm")
        self.features = keras.Model(inputs, outputs["P1"], name="features")

    def encode(self, x):
        return self.features(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 3 * keras.ops.mean((y - y_pred) ** 2)

    def get_config(self):
        return {"filters": self.filters, "kind": self.kind, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@pytest.mark.parametrize("kind", ["gn", "bn"])
def test_functional_subclasses_keep_class_methods_and_tensors(kind, tmp_path):
    model = randomize(Backbone(kind=kind, name="mine"))
    standardization = None if kind == "gn" else "bit"
    converted, report = convert(model, groups=2, weight_standardization=standardization)
    assert isinstance(converted, Backbone) and converted.name == "mine" and not report.notes
    assert converted.first_norm is converted.get_layer("P1_norm")
    assert isinstance(converted.first_norm, Fused)
    x = images(2, 6, 6, 3)
    extractor = keras.Model(converted.inputs, converted.pyramid_outputs)
    features = extractor([x])
    np.testing.assert_array_equal(converted.encode(x), features["P1"])
    np.testing.assert_array_equal(converted.get_layer("last")(features["P2"]), converted(x))
    if kind == "gn":
        np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(converted.encode(x), model.encode(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        converted.compute_loss(y=0.0, y_pred=converted(x)),
        3 * np.mean(converted(x) ** 2),
        rtol=1e-4,
    )
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, Backbone)
    np.testing.assert_array_equal(loaded(x), converted(x))
    np.testing.assert_array_equal(loaded.encode(x), converted.encode(x))
    assert loaded.get_config()["changes"] == converted.get_config()["changes"]


def test_files_of_the_former_package_load(tmp_path):
    """Its classes have other modules in old files, and the same registered names."""
    model, _ = convert(randomize(Backbone(name="mine")))
    model.save(tmp_path / "model.keras")
    with (
        zipfile.ZipFile(tmp_path / "model.keras") as new,
        zipfile.ZipFile(tmp_path / "old.keras", "w") as old,
    ):
        for name in new.namelist():
            module = b"tensorflow_groupnorm._conversion.derived"
            former = b"tensorflow_groupnorm.conversion._derived"
            assert name != "config.json" or module in new.read(name)
            old.writestr(name, new.read(name).replace(module, former))
    loaded = keras.saving.load_model(tmp_path / "old.keras")
    x = images(2, 6, 6, 3)
    np.testing.assert_array_equal(loaded(x), model(x))


def test_functional_subclass_in_another_model(tmp_path):
    inputs = keras.Input((6, 6, 3))
    model = randomize(keras.Model(inputs, layers.ReLU()(Backbone(name="own")(inputs))))
    converted, _ = convert(model, groups=2)
    assert isinstance(converted.get_layer("own"), Backbone)
    check_loads(converted, images(2, 6, 6, 3), tmp_path)


@register
class Chain(keras.Sequential):
    """Its config names what its constructor takes, and not its layers."""

    def __init__(self, filters=4, **kwargs):
        steps = [layers.Conv2D(filters, 3, name="conv"), norm("gn", "norm")]
        steps += [layers.ReLU(name="relu"), layers.Dense(2, name="head")]
        super().__init__([keras.Input((6, 6, 3)), *steps], **kwargs)
        self.filters = filters

    def twice(self, x):
        return 2 * self(x)

    def get_config(self):
        return {"filters": self.filters, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_sequential_subclasses_keep_class_and_methods(tmp_path):
    model = randomize(Chain(4, name="mine"))
    converted, report = convert(model, weight_standardization=None)
    assert isinstance(converted, Chain) and converted.filters == 4 and not report.notes
    assert report.count("fused") == 1 and len(converted.layers) == 3
    x = images(2, 6, 6, 3)
    np.testing.assert_allclose(converted.twice(x), 2 * model(x), rtol=1e-4, atol=1e-5)
    check_loads(converted, x, tmp_path)


@register
class Unnamed(keras.Model):
    """Leaves the names of its layers to Keras, which numbers them."""

    def __init__(self, **kwargs):
        inputs = keras.Input((6, 6, 3))
        x = inputs
        for _ in range(3):
            x = layers.ReLU()(norm("bn")(layers.Conv2D(4, 3, padding="same")(x)))
            x = keras.ops.add(layers.Conv2D(4, 1)(x), x)
        super().__init__(inputs, layers.Conv2D(2, 1)(x), **kwargs)

    def get_config(self):
        return {"name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@pytest.mark.parametrize("made_before", [0, 1, 2])
def test_names_that_keras_numbers(made_before, tmp_path):
    """Of a layer that is replaced the new number may be the old one of a layer that stays."""
    model = randomize(Unnamed())
    converted, _ = convert(model, groups=2)
    assert [a.name for a in converted.layers] == [
        a.name for a in model.layers if not isinstance(a, layers.ReLU)
    ]
    converted.save(tmp_path / "model.keras")
    keras.backend.clear_session()
    for _ in range(made_before):
        layers.Conv2D(2, 1), layers.BatchNormalization()
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images(2, 6, 6, 3)), converted(images(2, 6, 6, 3)))


@register
class Configurable(keras.Model):
    """Its config lacks some of its arguments."""

    def __init__(self, activation="relu", filters=4, **kwargs):
        inputs = keras.Input((6, 6, 3))
        x = layers.Conv2D(filters, 3, strides=2, name="conv")(inputs)
        x = layers.Activation(activation, name="act")(norm("gn", "norm")(x))
        x = layers.LayerNormalization(name="kept")(x)
        super().__init__(inputs, layers.Conv2D(2, 1, name="last")(x), **kwargs)

    def get_config(self):
        return {"name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_arguments_that_a_config_leaves_out_are_copied_and_loaded(tmp_path):
    model = randomize(Configurable(activation="gelu"))
    model.get_layer("kept").epsilon = 0.5
    converted, report = convert(model, weight_standardization=None)
    x = images(2, 6, 6, 3)
    assert isinstance(converted, Configurable) and not report.notes
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    check_loads(converted, x, tmp_path)


def test_another_graph_of_the_same_class_is_not_taken_for_a_copy(tmp_path):
    model = randomize(Configurable(filters=6))
    converted, report = convert(model, weight_standardization=None)
    assert isinstance(converted, Configurable) and not report.notes
    x = images(2, 6, 6, 3)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    check_loads(converted, x, tmp_path)


@register
class WithIdentity(keras.Model):
    """Has a layer of Keras' own of which Keras has no config, as it was given an object."""

    def __init__(self, **kwargs):
        inputs = keras.Input((6, 6, 4))
        x = layers.Identity(dtype=keras.DTypePolicy("float32"), name="same")(inputs)
        super().__init__(inputs, layers.Dense(2, name="head")(norm("gn", "norm")(x)), **kwargs)

    def get_config(self):
        return {"name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_layers_that_have_no_config_in_a_model_that_has_one(tmp_path):
    model = randomize(WithIdentity())
    with pytest.raises(NotImplementedError):
        model.get_layer("same").get_config()
    converted, _ = convert(model)
    assert isinstance(converted, WithIdentity)
    x = images(2, 6, 6, 4)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), converted(x))
