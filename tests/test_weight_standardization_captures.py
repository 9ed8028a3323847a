"""Standardized kernels where a layer's call is recomputed, traced, or reads them in its own way."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow_groupnorm.layers import WeightStandardization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.random.default_rng(0).normal(0.3, 1, (4, 8, 8, 4)).astype("float32")

REMAT_MODES = {
    "none": dict(mode=None),
    "full": dict(mode="full"),
    "activations": dict(mode="activations"),
    "larger_than": dict(mode="larger_than", output_size_threshold=1),
    "larger_than_all": dict(mode="larger_than", output_size_threshold=10**9),
    "list_of_layers": dict(mode="list_of_layers", layer_names=["conv"]),
    "list_of_wrappers": dict(mode="list_of_layers", layer_names=["wrapper"]),
}


def convolution(policy="float32", **kwargs):
    return keras.layers.Conv2D(6, 3, activation="tanh", name="conv", dtype=policy, **kwargs)


def standardized(policy="float32"):
    return tfgn.layers.StandardizedConv2D(
        6, 3, activation="tanh", name="conv", dtype=policy, gain=True
    )


def wrapped(policy="float32"):
    return WeightStandardization(convolution(policy), gain=True, name="wrapper")


def distributed(policy="float32"):
    layer = keras.layers.TimeDistributed(convolution(policy), dtype=policy)
    return WeightStandardization(layer, gain=True, name="wrapper")


def distributing(policy="float32"):
    layer = wrapped(policy)
    # In a graph Keras can rematerialize no layer that is called with `training` or `mask`.
    with keras.RematScope(None):
        return keras.layers.TimeDistributed(layer, dtype=policy)


def randomize(layer):
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(0.3, 1, w.shape) for w in layer.get_weights()])


def named(layer):
    return {v.name: v.value for v in layer.trainable_variables}


def by_formula(layer, x):
    """What the layers above compute, in stock operations, without a scope or a remat."""
    kernel, bias, gain = (named(layer)[name] for name in ("kernel", "bias", "gain"))
    dtype = layer.compute_dtype
    w_hat = tfgn.stock.standardize_weights(kernel, gain, dtype=dtype)
    y = keras.ops.conv(tf.cast(tf.reshape(x, (-1, *X.shape[1:])), dtype), w_hat)
    y = tf.tanh(y + tf.cast(bias, dtype))
    return tf.reshape(y, (*x.shape[:-3], *y.shape[1:]))


def gradients(call, layer, x):
    """Returns the gradients of the kernel, the bias, the gain and the input."""
    x = tf.convert_to_tensor(x)
    names = ["kernel", "bias", "gain"]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.cast(call(x), "float32")
        loss = tf.reduce_sum(y * tf.cos(y))
    return tape.gradient(loss, [*(named(layer)[name] for name in names), x])


def run(how, function):
    if how == "eager":
        return function()
    return tf.function(function, jit_compile=how == "jit")()


def assert_same_gradients(actual, expected, tolerance):
    for a, b in zip(actual, expected, strict=True):
        assert a is not None and np.linalg.norm(b) > 1e-3
        assert np.linalg.norm(np.subtract(a, b)) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize("mode", REMAT_MODES)
@pytest.mark.parametrize("make", [standardized, wrapped, distributed, distributing])
@pytest.mark.parametrize("how", ["eager", "graph", "jit"])
def test_gradients_under_rematerialization(mode, make, how):
    with keras.RematScope(**REMAT_MODES[mode]):
        layer = make()
    x = X if make in (standardized, wrapped) else X.reshape(2, 2, *X.shape[1:])
    layer.build(x.shape)
    randomize(layer)
    np.testing.assert_allclose(layer(x), by_formula(layer, x), rtol=1e-4, atol=1e-4)
    expected = gradients(lambda x: by_formula(layer, x), layer, x)
    actual = run(how, lambda: gradients(layer, layer, x))
    assert_same_gradients(actual, expected, 1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("make", [standardized, wrapped, distributed])
@pytest.mark.parametrize("how", ["eager", "graph"])
def test_precision_under_rematerialization(policy, make, how):
    with keras.RematScope("full"):
        layer = make(policy)
    x = X if make is not distributed else X.reshape(2, 2, *X.shape[1:])
    layer.build(x.shape)
    randomize(layer)
    expected = gradients(lambda x: by_formula(layer, x), layer, x)
    actual = run(how, lambda: gradients(layer, layer, x))
    tolerance = {"mixed_float16": 1e-2, "mixed_bfloat16": 6e-2, "float64": 1e-6}
    assert_same_gradients(actual, expected, tolerance[policy])
