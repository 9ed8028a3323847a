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
    normalizations,
    subclassed,
)
from conversions import Fused, changes, convert, randomize

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
