"""Standardized kernels where a layer's call is recomputed, traced, or reads them in its own way."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from standardization import randomize
from tensorflow_groupnorm.layers import WeightStandardization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

X = np.random.default_rng(0).normal(0.3, 1, (4, 8, 8, 4)).astype("float32")

KERNEL_BIAS_GAIN = ["kernel", "bias", "gain"]

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
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.cast(call(x), "float32")
        loss = tf.reduce_sum(y * tf.cos(y))
    return tape.gradient(loss, [*(named(layer)[name] for name in KERNEL_BIAS_GAIN), x])


def run(how, function):
    if how == "eager":
        return function()
    return tf.function(function, jit_compile=how == "jit")()


def assert_same_gradients(actual, expected, tolerance):
    for a, b in zip(actual, expected, strict=True):
        assert a is not None and np.linalg.norm(b) > 1e-3
        assert np.linalg.norm(np.subtract(a, b)) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize(
    "how, mode", [*itertools.product(["eager", "graph"], REMAT_MODES), ("jit", "full")]
)
@pytest.mark.parametrize("make", [standardized, wrapped, distributed, distributing])
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


def fitted(make, policy, **remat):
    """Returns the losses and weights of two epochs of a model whose layers were made so."""
    with keras.RematScope(**remat):
        layers = [make(policy), keras.layers.GlobalAveragePooling2D(dtype="float32")]
    model = keras.Sequential([keras.Input(X.shape[1:]), *layers])
    randomize(model)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    history = model.fit(X, X[:, 0, 0, :1], batch_size=2, epochs=2, shuffle=False, verbose=0)
    return history.history["loss"], model.get_weights()


@pytest.mark.parametrize("mode", ["full", "activations", "larger_than", "list_of_layers"])
@pytest.mark.parametrize("make", [standardized, wrapped])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_fit_under_rematerialization(mode, make, policy):
    losses, weights = fitted(make, policy, **REMAT_MODES[mode])
    expected_losses, expected = fitted(make, policy, mode=None)
    tolerance = 1e-5 if policy == "float32" else 2e-2
    np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    if policy == "float32":
        plain = make()
        plain.build(X.shape)
        randomize(plain)
        for a, b in zip(weights, plain.get_weights(), strict=True):
            assert np.abs(a - b).max() > 1e-3  # Each was trained.


def test_regularizers_of_a_rematerialized_layer_keep_their_gradient():
    def losses_and_gradients(**remat):
        with keras.RematScope(**remat):
            layer = WeightStandardization(
                convolution(activity_regularizer="l2", kernel_regularizer="l2"), gain=True
            )
        layer.build(X.shape)
        randomize(layer)
        with tf.GradientTape() as tape:
            layer(X)
            losses = layer.losses
            total = tf.add_n(losses)
        assert len(losses) == len(layer.losses) == 2
        return total, tape.gradient(total, list(named(layer).values()))

    total, actual = losses_and_gradients(mode="full")
    expected_total, expected = losses_and_gradients(mode=None)
    np.testing.assert_allclose(total, expected_total, rtol=1e-5)
    assert_same_gradients(actual, expected, 1e-4)


@pytest.mark.parametrize("make", [standardized, wrapped])
def test_a_stateless_call_under_rematerialization(make):
    with keras.RematScope("full"):
        layer = make()
    layer.build(X.shape)
    randomize(layer)
    x = tf.constant(X)
    values = [tf.constant(v.numpy()) for v in layer.trainable_variables]
    expected = gradients(lambda x: by_formula(layer, x), layer, x)
    for variable in layer.trainable_variables:
        variable.assign(2 * variable + 1)  # What counts is what the call is given.
    with tf.GradientTape() as tape:
        tape.watch([values, x])
        y, _ = layer.stateless_call(values, [], x)
        loss = tf.reduce_sum(y * tf.cos(y))
    names = [variable.name for variable in layer.trainable_variables]
    actual = tape.gradient(loss, [*(values[names.index(n)] for n in KERNEL_BIAS_GAIN), x])
    assert_same_gradients(actual, expected, 1e-4)


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("how", ["eager", "graph"])
@pytest.mark.parametrize("wrap", [False, True])
def test_lora(mode, how, wrap):
    with keras.RematScope(**REMAT_MODES[mode]):
        dense = keras.layers.Dense(6) if wrap else tfgn.layers.StandardizedDense(6)
        layer = WeightStandardization(dense) if wrap else dense
    x = tf.constant(X[:, 0, 0])
    layer.build(x.shape)
    dense.enable_lora(2, lora_alpha=3)
    randomize(layer)
    assert not dense._kernel.trainable
    variables = named(layer)

    def formula():
        a, b, bias = (variables[n] for n in ("lora_kernel_a", "lora_kernel_b", "bias"))
        kernel = dense._kernel.value + 3 / 2 * a @ b
        return x @ tfgn.stock.standardize_weights(kernel) + bias

    def all_gradients(call):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(call()))
        return tape.gradient(loss, list(variables.values()))

    assert len(variables) == 3
    actual = run(how, lambda: all_gradients(lambda: layer(x)))
    assert_same_gradients(actual, all_gradients(formula), 1e-4)


@pytest.mark.parametrize("make", [standardized, wrapped])
@pytest.mark.parametrize("mode", ["none", "full"])
def test_a_frozen_layer_passes_gradients_on(make, mode):
    with keras.RematScope(**REMAT_MODES[mode]):
        layer = make()
    layer.build(X.shape)
    randomize(layer)
    x = tf.constant(X)

    def gradient(call):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(call(x)))
        return tape.gradient(loss, x)

    expected = gradient(lambda x: by_formula(layer, x))
    layer.trainable = False
    assert not layer.trainable_variables and len(layer.variables) == 3
    assert_same_gradients([gradient(layer)], [expected], 1e-4)


class Traced(keras.layers.Dense):
    @tf.function
    def call(self, inputs):
        return super().call(inputs)


class TracedWithin(keras.layers.Dense):
    def build(self, input_shape):
        super().build(input_shape)
        self.product = tf.function(lambda x: tf.matmul(x, self.kernel))

    def call(self, inputs):
        return self.product(inputs)


class Recomputed(keras.layers.Dense):
    def call(self, inputs):
        return keras.remat(lambda x: tf.matmul(x, self.kernel))(inputs)


class OwnGradient(keras.layers.Dense):
    def call(self, inputs):
        @tf.custom_gradient
        def product(x):
            def gradient(dy, variables=()):
                return tf.matmul(dy, self.kernel, transpose_b=True), [None] * len(variables)

            return tf.matmul(x, self.kernel), gradient

        return product(inputs)


class Assigning(keras.layers.Dense):
    def call(self, inputs):
        self.kernel.assign(0.9 * self.kernel)
        return super().call(inputs)


class Indifferent(keras.layers.Dense):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("how", ["eager", "graph"])
@pytest.mark.parametrize("before", ["", "called before"])
@pytest.mark.parametrize(
    "cls, message",
    [
        (Traced, "tf.function"),
        (TracedWithin, "tf.function"),
        (Recomputed, "custom gradient.*keras.RematScope"),
        (OwnGradient, "custom gradient"),
        (Assigning, "assigns to it in its `call`"),
        (Indifferent, "cannot standardize dense/kernel, which.*did not"),
    ],
)
def test_refuses_where_a_gradient_or_the_kernel_would_be_lost(cls, message, how, before):
    layer = WeightStandardization(cls(3, use_bias=False, name="dense"), name="wrapper")
    x = tf.constant(X[:, 0, 0])
    layer.build(x.shape)
    kernel = layer.layer.kernel.numpy()
    if before and cls is not Assigning:
        layer.layer(x)  # A tf.function now has a trace that reads the plain kernel.
    with pytest.raises(
        RuntimeError,
        match=f"(?s)WeightStandardization name=wrapper.*({message}|did not read.*traced earlier)",
    ):
        run(how, lambda: layer(x))
    np.testing.assert_array_equal(layer.layer.kernel, kernel)
    if cls is not Assigning:
        run(how, lambda: layer.layer(x))  # The wrapped layer by itself is as it was.


def test_a_subclass_of_a_standardized_layer_may_be_a_tf_function():
    class Own(tfgn.layers.StandardizedDense):
        @tf.function
        def call(self, inputs):
            return super().call(inputs)

    layer, x = Own(3), tf.constant(X[:, 0, 0])
    layer.build(x.shape)
    for seed in (0, 1):  # The second call finds the trace of the first.
        layer.kernel.assign(np.random.default_rng(seed).normal(size=layer.kernel.shape))
        with tf.GradientTape() as tape:
            y = layer(x)
            loss = tf.reduce_sum(tf.sin(y))
        expected = x @ tfgn.standardize_weights(layer.kernel.value) + layer.bias
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
        assert np.abs(tape.gradient(loss, layer.kernel.value)).max() > 1e-3


class Masked(keras.layers.Conv2D):
    """A causal convolution, as in PixelCNN: its `kernel` is computed."""

    def build(self, input_shape):
        super().build(input_shape)
        self.mask = np.ones(self._kernel.shape, "float32")
        self.mask[2:] = 0

    @property
    def kernel(self):
        return self._kernel * self.mask


class Foreign(keras.layers.Layer):
    def build(self, input_shape):
        self.kernel = tf.Variable(tf.ones([input_shape[-1], 3]))

    def call(self, inputs):
        return tf.matmul(inputs, self.kernel)


def test_a_kernel_that_is_no_variable_of_keras_is_refused():
    message = r"Masked.*`kernel` is a computed.*kernels=\(\"_kernel\",\)"
    with pytest.raises(ValueError, match=message):
        WeightStandardization(Masked(6, 3))(X)
    with pytest.raises(ValueError, match="Foreign.*`kernel` is a tf.Variable.*add_weight"):
        WeightStandardization(Foreign())(X)


def test_the_variable_behind_a_computed_kernel():
    layer = WeightStandardization(Masked(6, 3), kernels="_kernel")
    y = layer(X)
    w_hat = tfgn.standardize_weights(layer.layer._kernel.value) * layer.layer.mask
    np.testing.assert_allclose(y, keras.ops.conv(X, w_hat), rtol=1e-4, atol=1e-4)


class Counting(keras.layers.Dense):
    """Assigns to a variable in a branch, where the value is no tensor of the call's own graph."""

    def build(self, input_shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, inputs):
        def count():
            self.calls.assign_add(1.0)
            return tf.matmul(inputs, self.kernel)

        return tf.cond(tf.reduce_sum(inputs) > 0, count, lambda: tf.zeros([inputs.shape[0], 3]))


def test_assignments_in_a_branch():
    layer = WeightStandardization(Counting(3))
    x = tf.abs(X[:, 0, 0])
    y = layer(x)
    call = tf.function(layer)
    np.testing.assert_allclose(call(x), y, rtol=1e-5)
    assert not call(-x).numpy().any()
    assert layer.layer.calls.numpy() == 2
