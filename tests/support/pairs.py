"""What a model with `save_memory` must have in common with the same model without it."""

import keras
import numpy as np
import tensorflow_groupnorm as tfgn
from conversions import Fused, convert
from keras import layers
from training_steps import assert_same_steps, by_path, training_step

Pair = tfgn.layers.RecomputedNormalization

#: The arguments that only put layers together.
ONLY_PAIRS = {"norm": None, "weight_standardization": None}


def norm(name="norm", activation="relu", **kwargs):
    return Fused(4, activation=activation, name=name, **kwargs)


def conv(filters=8, size=3, **kwargs):
    return layers.Conv2D(filters, size, **{"padding": "same", **kwargs})


def answer(report, name="norm"):
    """Returns the action, result and reason for a normalization."""
    (change,) = [c for c in report.changes if c.name == name and "paired" in c.action]
    return change.action, change.result, change.reason


def pairs(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, Pair)]


def check_equal(plain, paired, x):
    """Compares the weights and a training step."""
    assert by_path(plain.weights).keys() == by_path(paired.weights).keys()
    assert_same_steps(training_step(paired, x), training_step(plain, x))


def paired(model, x, *args, **kwargs):
    """Returns a model converted with `save_memory`, and the report.

    The model is compared with the same conversion without it.
    """
    plain, _ = convert(model, *args, **kwargs)
    new, report = convert(model, *args, save_memory=True, **kwargs)
    assert len(pairs(new)) == len(pairs(plain)) + report.count("paired")
    check_equal(plain, new, x)
    return new, report


def names(model):
    """The names of the weights, without the numbers that Keras gives to nameless variables."""
    return [variable.name.rstrip("0123456789") for variable in model.weights]


def check_round_trip(model, x, tmp_path, **kwargs):
    """Saves and loads a model, and compares outputs and weights. Returns the loaded one."""
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", **kwargs)
    assert names(loaded) == names(model)
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(b, a)
    for a, b in zip(keras.tree.flatten(model(x)), keras.tree.flatten(loaded(x)), strict=True):
        np.testing.assert_array_equal(b, a)
    model.save_weights(tmp_path / "model.weights.h5")
    for variable in loaded.weights:
        variable.assign(keras.ops.zeros_like(variable))
    loaded.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(b, a)
    return loaded
