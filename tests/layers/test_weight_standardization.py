"""Standardized kernels in Keras layers: the wrapper, and the stock layers' counterparts."""

import json
import pickle
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from standardization import normal, randomize
from tensorflow_groupnorm.layers import WeightStandardization
from tfgn_base.variants import VARIANTS

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

POLICIES = ["float32", "mixed_float16", "mixed_bfloat16", "bfloat16", "float64"]

# Layer, arguments, input shape, the output-channel axes of its kernels.
CASES = {
    "Conv1D": (dict(filters=6, kernel_size=3, padding="causal"), (2, 7, 4), {"kernel": -1}),
    "Conv2D": (
        dict(filters=6, kernel_size=3, groups=2, activation="relu"),
        (2, 6, 5, 4),
        {"kernel": -1},
    ),
    "Conv3D": (dict(filters=6, kernel_size=2), (2, 4, 4, 3, 4), {"kernel": -1}),
    "Conv1DTranspose": (dict(filters=6, kernel_size=3, strides=2), (2, 7, 4), {"kernel": -2}),
    "Conv2DTranspose": (dict(filters=6, kernel_size=3, strides=2), (2, 6, 5, 4), {"kernel": -2}),
    "Conv3DTranspose": (dict(filters=6, kernel_size=2), (2, 4, 4, 3, 4), {"kernel": -2}),
    "DepthwiseConv2D": (
        dict(kernel_size=3, depth_multiplier=2),
        (2, 6, 5, 4),
        {"kernel": (-2, -1)},
    ),
    "SeparableConv2D": (
        dict(filters=6, kernel_size=3),
        (2, 6, 5, 4),
        {"depthwise_kernel": (-2, -1), "pointwise_kernel": -1},
    ),
    "Dense": (dict(units=6), (2, 5, 4), {"kernel": -1}),
}


def array(x):
    return np.asarray(tf.cast(x, "float64"))


def assert_bit_equal(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(array(actual), array(expected))


def standardized(name, **kwargs):
    return getattr(tfgn.layers, f"Standardized{name}")(**kwargs)


def fill_with_standardized(stock, layer, axes, **arguments):
    """Gives a stock layer the standardized kernels of `layer`, in the dtype it computes in."""
    for (name, axis), gain in zip(axes.items(), arguments.pop("gains"), strict=True):
        w_hat = tfgn.stock.standardize_weights(
            getattr(layer, name).value, gain, axis=axis, dtype=layer.compute_dtype, **arguments
        )
        getattr(stock, name).assign(w_hat)
    stock.bias.assign(layer.bias)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("policy", POLICIES)
def test_standardized_layer_is_the_stock_one_with_a_standardized_kernel(name, policy):
    kwargs, shape, axes = CASES[name]
    layer = standardized(name, dtype=policy, gain=True, **kwargs)
    stock = getattr(keras.layers, name)(dtype=policy, **kwargs)
    x = tf.cast(normal(shape), layer.compute_dtype)
    for each in (layer, stock):
        each.build(shape)
        randomize(each)
    gains = [getattr(layer, key.replace("kernel", "gain")).value for key in axes]
    before = layer.get_weights()
    fill_with_standardized(stock, layer, axes, gains=gains)
    y = layer(x)
    assert y.dtype == layer.compute_dtype
    tolerance = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 4e-2}
    np.testing.assert_allclose(
        array(y), array(stock(x)), rtol=tolerance[y.dtype.name], atol=10 * tolerance[y.dtype.name]
    )
    for a, b in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    # The wrapper around the stock layer is the same layer.
    wrapper = WeightStandardization(getattr(keras.layers, name)(dtype=policy, **kwargs), gain=True)
    wrapper.build(shape)
    wrapper.layer.set_weights(layer.get_weights()[: len(wrapper.layer.weights)])
    for key, gain in zip(axes, gains, strict=True):
        getattr(wrapper, key.replace("kernel", "gain")).assign(gain)
    assert_bit_equal(wrapper(x), y)
    assert_bit_equal(tf.function(wrapper)(x), tf.function(layer)(x))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("epsilon", [None, 1e-2])
def test_variants(variant, epsilon):
    kwargs, shape, axes = CASES["Conv2D"]
    layer = standardized("Conv2D", variant=variant, epsilon=epsilon, **kwargs)
    wrapper = WeightStandardization(keras.layers.Conv2D(**kwargs), variant, epsilon)
    stock = keras.layers.Conv2D(**kwargs)
    for each in (layer, wrapper, stock):
        each.build(shape)
        randomize(each)
    fill_with_standardized(stock, layer, axes, variant=variant, epsilon=epsilon, gains=[None])
    x = normal(shape).astype("float32")
    np.testing.assert_allclose(layer(x), stock(x), rtol=1e-5, atol=1e-5)
    assert_bit_equal(wrapper(x), layer(x))


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_the_variables(name):
    kwargs, shape, axes = CASES[name]
    layer = standardized(name, gain=True, dtype="float64", **kwargs)
    layer.build(shape)
    randomize(layer)
    stock = getattr(keras.layers, name)(dtype="float64", **kwargs)
    stock.build(shape)
    x = tf.constant(normal(shape))
    variables = [v.value for v in layer.trainable_variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(layer(x)))
    gradients = tape.gradient(loss, variables)
    assert len(gradients) == len(axes) * 2 + 1
    # By hand: the stock layer fed with a standardized kernel, differentiated by TensorFlow.
    with tf.GradientTape() as tape:
        values = {}
        for key, axis in axes.items():
            gain = getattr(layer, key.replace("kernel", "gain")).value
            values[key] = tfgn.stock.standardize_weights(getattr(layer, key).value, gain, axis=axis)
        kernels = [values[key] for key in axes]
        trainable = [*kernels, layer.bias.value]
        y, _ = stock.stateless_call(trainable, [], x)
        loss = tf.reduce_sum(tf.sin(y))
    for a, b in zip(gradients, tape.gradient(loss, variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def small_model(cls, **kwargs):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            cls(8, 3, **kwargs),
            keras.layers.Conv2D(8, 3, activation="relu"),
            cls(4, 3, use_bias=False, name="last", **kwargs),
        ]
    )


def test_weights_files_move_between_stock_and_standardized(tmp_path):
    path, x = tmp_path / "model.weights.h5", normal((2, 8, 8, 3))
    ours, stock = tfgn.layers.StandardizedConv2D, keras.layers.Conv2D
    for source, target in ((ours, stock), (stock, ours)):
        source, target = small_model(source), small_model(target)
        randomize(source)
        source.save_weights(path)
        target.load_weights(path)
        for a, b in zip(source.weights, target.weights, strict=True):
            assert a.name == b.name
            assert_bit_equal(a.value, b.value)
    assert np.abs(array(source(x)) - array(target(x))).max() > 0.1


@pytest.mark.parametrize("gain", [False, True])
def test_round_trips(tmp_path, gain):
    inputs = keras.Input((None, None, 4))
    x = inputs
    for name in ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Dense"):
        x = standardized(name, gain=gain, variant="nfnet", epsilon=1e-3, **CASES[name][0])(x)
    x = WeightStandardization(keras.layers.Conv2D(3, 1), "qiao", 1e-4, gain, axis=[-1])(x)
    x = WeightStandardization(keras.layers.Dense(5), gain=gain)(x)
    model = keras.Model(inputs, x)
    randomize(model)
    x = tf.constant(normal((2, 6, 5, 4)), "float32")
    y = model(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_bit_equal(loaded(x), y)
    assert [type(a) for a in loaded.layers] == [type(a) for a in model.layers]
    for a, b in zip(loaded.layers, model.layers, strict=True):
        assert json.dumps(a.get_config()) == json.dumps(b.get_config())
    model.save_weights(tmp_path / "model.weights.h5")
    randomized_again = keras.models.clone_model(model)
    randomized_again.load_weights(tmp_path / "model.weights.h5")
    assert_bit_equal(randomized_again(x), y)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(x), y, rtol=1e-5, atol=1e-5)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    y_saved = saved.signatures["serving_default"](x)["output_0"]
    np.testing.assert_allclose(y_saved, y, rtol=1e-5, atol=1e-5)


def test_names():
    cls = tfgn.layers.StandardizedConv2D
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert issubclass(cls, keras.layers.Conv2D)
    assert keras.saving.get_registered_name(cls) == "tensorflow_groupnorm>StandardizedConv2D"
    config = keras.saving.serialize_keras_object(cls(4, 3))
    assert type(keras.saving.deserialize_keras_object(config)) is cls
    assert cls.__name__ == "StandardizedConv2D"


def test_config_says_what_to_import():
    for layer in (
        tfgn.layers.StandardizedConv2D(4, 3),
        tfgn.layers.GroupNormalization(2),
        WeightStandardization(keras.layers.Dense(4)),
    ):
        config = keras.saving.serialize_keras_object(layer)
        config["registered_name"] = "not_imported>Layer"
        public = f"tensorflow_groupnorm.layers.{type(layer).__name__}"
        with pytest.raises(TypeError, match=f"Could not locate class '{public}'"):
            keras.saving.deserialize_keras_object(config)


def test_one_sees_that_a_layer_is_standardized(tmp_path):
    class Own(tfgn.layers.StandardizedDense):
        pass

    keras.backend.clear_session()
    cls = tfgn.layers.StandardizedConv2D
    layers = [cls(4, 3), cls(4, 3), cls(4, 3, name="mine"), keras.layers.Conv2D(4, 1), Own(2)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    names = ["standardized_conv2d", "standardized_conv2d_1", "mine", "conv2d", "own"]
    assert [layer.name for layer in model.layers] == names
    assert repr(layers[1]) == "<StandardizedConv2D name=standardized_conv2d_1, built=True>"
    lines = []
    model.summary(print_fn=lines.append)
    assert lines[0].count("StandardizedConv2D") == 3
    assert "conv2d (Conv2D)" in lines[0] and "own (Own)" in lines[0]
    model.save(tmp_path / "model.keras")
    with keras.saving.custom_object_scope({"Own": Own}):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in loaded.layers] == names


@pytest.mark.parametrize(
    "equation, output_shape, reduced",
    [
        ("abc,cd->abd", (None, 6), (0,)),
        ("abc,cde->abde", (None, 2, 3), (0,)),
        ("abc,dc->abd", (None, 6), (1,)),
    ],
)
def test_einsum_dense(equation, output_shape, reduced):
    layer = WeightStandardization(
        keras.layers.EinsumDense(equation, output_shape, bias_axes=None), epsilon=1e-8
    )
    x = normal((2, 5, 7)).astype("float32")
    y = layer(x)
    w = layer.layer.kernel.numpy()
    w_hat = (w - w.mean(reduced, keepdims=True)) / w.std(reduced, keepdims=True)
    np.testing.assert_allclose(y, np.einsum(equation, x, w_hat), rtol=1e-4, atol=1e-4)


def test_axis_of_a_layer_of_ones_own():
    class Rows(keras.layers.Layer):
        def build(self, input_shape):
            self.kernel = self.add_weight(shape=(3, input_shape[-1]), name="kernel")

        def call(self, inputs):
            return keras.ops.matmul(inputs, keras.ops.transpose(self.kernel))

    x = normal((2, 5)).astype("float32")
    layer = WeightStandardization(Rows(), axis=0)
    y = layer(x)
    w = layer.layer.kernel.numpy()
    w_hat = (w - w.mean(1, keepdims=True)) / w.std(1, keepdims=True)
    np.testing.assert_allclose(y, x @ w_hat.T, rtol=1e-4, atol=1e-4)
    assert layer(keras.Input((5,))).shape == (None, 3)


@pytest.mark.parametrize("time", [3, None])
def test_time_distributed(time):
    x = tf.constant(normal((2, 3, 6, 6, 4)), "float32")
    conv = keras.layers.Conv2D(5, 3)
    inside = WeightStandardization(conv)
    expected = tf.stack([inside(x[:, t]) for t in range(3)], 1)
    for layer in (
        keras.layers.TimeDistributed(inside),
        WeightStandardization(keras.layers.TimeDistributed(conv)),
    ):
        model = keras.Sequential([keras.Input((time, 6, 6, 4)), layer])
        np.testing.assert_allclose(tf.function(model)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
@pytest.mark.parametrize("outer_policy", ["mixed_bfloat16", "float32"])
def test_time_distributed_computes_in_the_dtype_of_the_stock_layer(policy, outer_policy):
    def distribute(layer):
        return keras.layers.TimeDistributed(layer, dtype=outer_policy)

    x = tf.constant(normal((2, 3, 6, 6, 4)), "float32")
    stock = distribute(keras.layers.Conv2D(5, 3, dtype=policy))
    ours = distribute(tfgn.layers.StandardizedConv2D(5, 3, dtype=policy))
    assert ours(x).dtype == WeightStandardization(stock)(x).dtype == stock(x).dtype


def test_what_happens_in_a_wrapped_layer_reaches_the_model():
    class Busy(keras.layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self._tracker.unlock()
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)
            self._tracker.lock()

        def call(self, inputs):
            self.calls.assign_add(1.0)
            self.add_loss(keras.ops.sum(self.calls))
            return super().call(inputs)

    layer = WeightStandardization(Busy(3, activity_regularizer="l2", kernel_regularizer="l1"))
    x = normal((2, 5)).astype("float32")
    for step in (1, 2):
        y = layer(x)
        assert layer.layer.calls.numpy() == step
        losses = sorted(float(loss) for loss in layer.losses)
        activity = 0.01 * np.square(y).sum() / 2
        kernel = 0.01 * np.abs(layer.layer.kernel.numpy()).sum()
        np.testing.assert_allclose(losses, sorted([step, activity, kernel]), rtol=1e-5)


def test_values_that_an_enclosing_stateless_call_gives():
    layer = tfgn.layers.StandardizedDense(4)
    x = tf.constant(normal((2, 5)), "float32")
    layer.build(x.shape)
    kernel, bias = (tf.constant(normal(w.shape, 7), "float32") for w in layer.weights)
    y, _ = layer.stateless_call([kernel, bias], [], x)
    expected = x @ tfgn.standardize_weights(kernel) + bias
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_threads_do_not_see_each_others_kernels():
    layer = tfgn.layers.StandardizedDense(32)
    x = tf.constant(normal((2, 64)), "float32")
    expected = layer(x).numpy()
    results = []

    def work():
        results.extend(np.array_equal(layer(x), expected) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 200 and all(results)


def test_policy_of_the_wrapper_is_that_of_its_layer():
    for policy in ("mixed_bfloat16", "float64"):
        layer = WeightStandardization(keras.layers.Dense(3, dtype=policy))
        assert layer.dtype_policy.name == policy
        inputs = keras.Input((5,))
        assert layer(inputs).dtype == layer(normal((2, 5))).dtype == layer.compute_dtype


@pytest.mark.parametrize(
    "build",
    [
        WeightStandardization,
        lambda: WeightStandardization()(tf.ones([1, 8, 8, 3])),
        lambda: keras.Sequential([WeightStandardization(), keras.layers.Conv2D(8, 3)]),
        lambda: WeightStandardization(tf.ones([1, 8, 8, 3])),
        lambda: WeightStandardization(keras.layers.Conv2D),
        lambda: WeightStandardization(8),
    ],
)
def test_without_a_layer_it_says_what_to_write(build):
    with pytest.raises(ValueError, match=r"write WeightStandardization\(keras.layers.Conv2D\("):
        build()


def test_layers_that_have_nothing_to_standardize():
    with pytest.raises(ValueError, match="has a kernel.*MaxPooling2D.*no `kernel`"):
        WeightStandardization(keras.layers.MaxPooling2D())(tf.ones([1, 8, 8, 3]))
    with pytest.raises(ValueError, match="already standardized.*"):
        WeightStandardization(tfgn.layers.StandardizedConv2D(8, 3))
    with pytest.raises(ValueError, match="one weight per output channel.*kernel.*Leave"):
        tfgn.layers.StandardizedDense(3)(tf.ones([2, 1]))
    with pytest.raises(ValueError, match="`variant`.*'ws'"):
        tfgn.layers.StandardizedConv2D(8, 3, variant="ws")
    with pytest.raises(ValueError, match="`epsilon`.*-1"):
        WeightStandardization(keras.layers.Dense(3), epsilon=-1)
