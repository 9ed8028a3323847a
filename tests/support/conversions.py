"""Models to convert, and conversions with their reports."""

import keras
import numpy as np
import tensorflow_groupnorm as tfgn
from keras import layers

Fused = tfgn.layers.GroupNormalization


def randomize(model, seed=1):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.2, 1, w.shape) for w in model.get_weights()])
    return model


def images(*shape, seed=0):
    shape = shape or (2, 8, 8, 3)
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def convert(model, *args, **kwargs):
    """Returns the converted model and its report."""
    reports = []
    converted = tfgn.convert(model, *args, **kwargs, report=reports.append)
    assert len(reports) == 1
    return converted, reports[0]


def changes(report):
    return {change.name: change for change in report.changes}


def resnet(norm, activation="relu", side=8):
    """Two blocks, one with a projection; `norm(name)` makes its normalizations."""
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = layers.Activation(activation, name="stem_act")(norm("stem_norm")(x))
    for i, filters in enumerate((8, 16)):
        shortcut = x
        if filters != 8:
            shortcut = layers.Conv2D(filters, 1, name=f"proj{i}")(x)
            shortcut = norm(f"proj_norm{i}")(shortcut)
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{i}")(x)
        x = layers.Activation(activation, name=f"act{i}")(norm(f"norm{i}")(x))
        x = layers.Conv2D(filters, 3, padding="same", name=f"last_conv{i}")(x)
        x = layers.Add(name=f"add{i}")([shortcut, norm(f"last_norm{i}")(x)])
        x = layers.Activation(activation, name=f"last_act{i}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name="small")


def batch_norm(name):
    return layers.BatchNormalization(epsilon=1e-2, name=name)


def stock_norm(name):
    return layers.GroupNormalization(4, epsilon=1e-2, name=name)
