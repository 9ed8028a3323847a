"""Standardized kernels further in: attention, layers of one's own, kernels by name; refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from standardization import gradients, normal32, randomize
from tensorflow_groupnorm.layers import WeightStandardization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


SEQUENCE = normal32((2, 5, 4))


ATTENTION = {
    "MultiHeadAttention": lambda **k: keras.layers.MultiHeadAttention(2, 3, **k),
    "GroupQueryAttention": lambda **k: keras.layers.GroupQueryAttention(4, 4, 2, **k),
}


def attention_by_formula(wrapper, stock, *args, **kwargs):
    values = []
    for variable in wrapper.layer.trainable_variables:
        value = variable.value
        if variable.name == "kernel":
            projection = variable.path.split("/")[-2]
            kept = (2,) if projection == "attention_output" else (1, 2)
            gain = getattr(wrapper, f"{projection}_gain").value
            value = tfgn.stock.standardize_weights(value, gain, axis=kept)
        values.append(value)
    return stock.stateless_call(values, stock.non_trainable_variables, *args, **kwargs)[0]


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("remat", ["full", None])
@pytest.mark.parametrize("how", ["eager", "graph", "jit"])
def test_attention(name, remat, how):
    make, memory = ATTENTION[name], tf.constant(normal32((2, 7, 6), 5))
    stock = make()
    with keras.RematScope(remat):
        wrapper = WeightStandardization(make(), gain=True)
    for each in (wrapper, stock):
        each(SEQUENCE, memory)
    randomize(wrapper)
    gains = [v.name for v in wrapper.trainable_variables if v.name.endswith("gain")]
    assert gains == ["query_gain", "key_gain", "value_gain", "attention_output_gain"]
    mask = tf.constant(np.random.default_rng(0).random((2, 5, 7)) < 0.8)

    def ours(x):
        return wrapper(x, memory, attention_mask=mask)

    def formula(x):
        return attention_by_formula(wrapper, stock, x, memory, attention_mask=mask)

    call = lambda: gradients(ours, wrapper, SEQUENCE)  # noqa: E731
    actual = call() if how == "eager" else tf.function(call, jit_compile=how == "jit")()
    assert_attention(actual, gradients(formula, wrapper, SEQUENCE))


def assert_attention(actual, expected):
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-4)
    for a, b in zip(actual[1], expected[1], strict=True):
        # A bias of the keys moves all scores of a query alike: its gradient is 0.
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1, np.abs(b).max()))


def test_attention_in_a_model(tmp_path):
    query, value = keras.Input((5, 4)), keras.Input((None, 6))
    layer = WeightStandardization(keras.layers.MultiHeadAttention(2, 3, dropout=0.1), gain=True)
    y, scores = layer(query, value, return_attention_scores=True)
    stock = keras.layers.MultiHeadAttention(2, 3)(query, value, return_attention_scores=True)
    assert [y.shape, scores.shape] == [each.shape for each in stock]
    model = keras.Model([query, value], y)
    randomize(model)
    x = [SEQUENCE, normal32((2, 7, 6))]
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.fit(x, np.ones([2, 5, 4]), verbose=0)
    after = zip(model.weights, before, model.get_weights(), strict=True)
    still = [v.path for v, a, b in after if np.array_equal(a, b)]
    # A bias of the keys moves all scores of a query alike: its gradient is 0.
    assert all(path.endswith("key/bias") for path in still)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), model(x))


class Block(keras.layers.Layer):
    """A layer of one's own that has no kernel itself and is built by its first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(2, 3)
        self.dense = keras.layers.Dense(6)

    def call(self, inputs):
        return self.dense(self.attention(inputs, inputs))


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer 'own_block':UserWarning")
def test_named_kernels(tmp_path):
    names = ["dense.kernel", "attention.query_dense.kernel"]
    layer = WeightStandardization(Block(name="own_block"), kernels=names, gain=True)
    model = keras.Sequential([keras.Input((5, 4)), layer])
    assert [v.name for v in layer.weights if "gain" in v.name] == [
        "dense_gain",
        "attention_query_dense_gain",
    ]
    assert layer.get_config()["kernels"] == names
    randomize(model)
    block, stock = layer.layer, Block()
    stock(SEQUENCE)
    stock.set_weights(block.get_weights())
    w_hat = tfgn.standardize_weights(block.dense.kernel.value, layer.dense_gain.value)
    stock.dense.kernel.assign(w_hat)
    query = block.attention.query_dense.kernel.value
    query = tfgn.standardize_weights(query, layer.attention_query_dense_gain.value, axis=(1, 2))
    stock.attention.query_dense.kernel.assign(query)
    np.testing.assert_allclose(model(SEQUENCE), stock(SEQUENCE), rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    with keras.saving.custom_object_scope({"Block": Block}):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(SEQUENCE), model(SEQUENCE))


def test_kernels_in_lists():
    stock = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)])
    layer = WeightStandardization(stock, kernels=["layers.1.kernel"], gain=True)
    y = layer(SEQUENCE)
    second = stock.layers[1]
    w_hat = tfgn.standardize_weights(second.kernel.value, layer.layers_1_gain.value)
    expected = stock.layers[0](SEQUENCE) @ w_hat + second.bias.value
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="`kernels`.*'layers.2.kernel'.*out of range"):
        WeightStandardization(stock, kernels="layers.2.kernel")(SEQUENCE)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: WeightStandardization(keras.layers.LSTMCell(3)), r"write.*RNN\(cell\).*LSTMCell"),
        (
            lambda: WeightStandardization(keras.layers.StackedRNNCells([keras.layers.GRUCell(3)])),
            r"write.*RNN\(cell\).*StackedRNNCells",
        ),
        (
            lambda: WeightStandardization(
                keras.layers.TimeDistributed(tfgn.layers.StandardizedDense(3))
            )(SEQUENCE),
            "already standardized.*StandardizedDense",
        ),
        (
            lambda: WeightStandardization(
                keras.layers.TimeDistributed(WeightStandardization(keras.layers.Dense(3)))
            )(SEQUENCE),
            "already standardized.*WeightStandardization",
        ),
        (lambda: WeightStandardization(keras.layers.Dense(3), kernels=[]), r"`kernels`.*\[\]"),
        (lambda: WeightStandardization(keras.layers.Dense(3), kernels=[3]), r"`kernels`.*\[3\]"),
        (
            lambda: WeightStandardization(keras.layers.Dense(3), kernels="weight")(SEQUENCE),
            "Dense.*no `weight`",
        ),
        (
            lambda: WeightStandardization(keras.layers.Dense(3), kernels="a.kernel")(SEQUENCE),
            "`kernels`.*'a.kernel'.*Dense",
        ),
        (
            lambda: WeightStandardization(keras.layers.LSTM(3), kernels=["kernel", "cell.kernel"])(
                SEQUENCE
            ),
            "`kernels`.*twice",
        ),
        (lambda: WeightStandardization(keras.layers.Dense(3), axis=2)(SEQUENCE), r"`axis`.*\[2\]"),
        (
            lambda: WeightStandardization(Block())(SEQUENCE),
            "pass that name as `kernels`.*Block.*no `kernel`",
        ),
        (
            lambda: keras.layers.Bidirectional(WeightStandardization(keras.layers.Dense(3))),
            "go_backwards",
        ),
    ],
)
def test_what_cannot_be_standardized_is_refused(make, message):
    with pytest.raises((ValueError, TypeError, AttributeError), match=f"(?s){message}"):
        make()


def test_spectral_normalization_assigns_to_the_kernel():
    layer = WeightStandardization(keras.layers.SpectralNormalization(keras.layers.Dense(3)))
    layer.build((2, 4))
    with pytest.raises(RuntimeError, match="cannot standardize.*assigns to it"):
        layer(SEQUENCE[:, 0], training=True)
