"""`tfgn.convert`: layers and models with code of their own load as what they became."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from composites import (
    MODELS,
    Nested,
    batch,
    check_loads,
    described,
    functional,
    norm,
    normalizations,
    register,
    subclassed,
)
from conversions import Fused, changes, convert, randomize
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.mark.parametrize("name", MODELS)
def test_stock_group_normalization_keeps_outputs_and_loads_as_the_fused(name, tmp_path):
    model = randomize(MODELS[name]("gn"))
    x = batch(model)
    converted, report = convert(model, weight_standardization=None)
    assert all(isinstance(layer, Fused) for layer in normalizations(converted))
    assert report.count("replaced") == len(normalizations(model)) and not report.count("kept")
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    if name != "TimeDistributed":  # Keras builds a copy of what it wraps outside of its scope.
        assert [w.path for w in converted.weights] == [w.path for w in model.weights]
    check_loads(converted, x, tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_batch_normalization_loads_as_what_it_became(name, tmp_path):
    model = randomize(MODELS[name]("bn"))
    converted, report = convert(model, groups=2)
    norms = normalizations(converted)
    assert norms and all(isinstance(layer, Fused) for layer in norms)
    assert report.count("replaced") >= len(norms)
    check_loads(converted, batch(model), tmp_path)


def test_other_ways_to_copy_a_converted_model(tmp_path):
    model, _ = convert(randomize(subclassed("bn")), groups=2)
    x = batch(model)
    copies = [
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        keras.models.clone_model(model),
        keras.models.model_from_json(model.to_json()),
    ]
    for each in copies:
        each.set_weights(model.get_weights())
        assert described(each) == described(model)
        np.testing.assert_array_equal(each(x), model(x))
    exported = tfgn.export(model, tmp_path / "saved_model", portable=True)
    assert exported.difference < 1e-5


def test_convolutions_in_composites_are_standardized_and_load_so(tmp_path):
    model = randomize(functional(Nested(kind="bn", name="own")))
    converted, report = convert(model, groups=2)
    assert changes(report)["own/inner/stage/conv"].result == "StandardizedConv2D"
    assert changes(report)["own/zero/conv"].result == "StandardizedConv2D"
    check_loads(converted, batch(model), tmp_path)


def test_two_conversions_one_after_the_other(tmp_path):
    model = randomize(subclassed("bn"))
    once, _ = convert(model, weight_standardization=None, groups=2)
    twice, report = convert(once, norm=None)
    assert report.count("replaced") == 4
    check_loads(twice, batch(model), tmp_path)


def test_what_is_frozen_after_the_conversion_loads_frozen(tmp_path):
    converted, _ = convert(randomize(subclassed("bn")), groups=2)
    converted.decoder.trainable = False
    converted.decoder.inner.block.trainable = True
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    paths = [w.path for w in converted.trainable_weights]
    assert [w.path for w in loaded.trainable_weights] == paths
    assert 0 < len(paths) < len(converted.weights)


@register
class Headed(keras.Model):
    """A functional model that is given its head, as DeepLabV3+ of keras-cv is."""

    def __init__(self, head, **kwargs):
        inputs = keras.Input((6, 6, 4))
        super().__init__(inputs, layers.Dense(2, name="last")(head(inputs)), **kwargs)
        self.head = head

    def get_config(self):
        return {"name": self.name, "head": keras.saving.serialize_keras_object(self.head)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "head": keras.saving.deserialize_keras_object(config["head"])})


def test_fusion_in_a_sequential_that_was_rebuilt_layer_by_layer(tmp_path):
    head = keras.Sequential(name="head")
    for layer in (keras.Input((6, 6, 4)), layers.Conv2D(4, 3, name="conv"), norm("gn", "norm")):
        head.add(layer)
    head.add(layers.ReLU(name="relu"))
    head.add(layers.Activation("tanh", name="tanh"))
    assert len(head.get_layer("norm")._inbound_nodes) > 1
    model = randomize(Headed(head))
    converted, report = convert(model, weight_standardization=None)
    assert report.count("fused") == 1
    x = batch(model)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    check_loads(converted, x, tmp_path)
