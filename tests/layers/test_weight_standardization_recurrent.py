"""Standardized kernels in recurrent layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from standardization import gradients, normal32, randomize
from tensorflow_groupnorm.layers import WeightStandardization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SEQUENCE = np.random.default_rng(0).normal(0.3, 1, (2, 5, 4)).astype("float32")
FRAMES = np.random.default_rng(0).normal(0.3, 1, (2, 3, 6, 4)).astype("float32")


def stacked(**kwargs):
    cells = [keras.layers.GRUCell(3), keras.layers.LSTMCell(3)]
    return keras.layers.RNN(cells, **kwargs)


def bidirectional(**kwargs):
    return keras.layers.Bidirectional(keras.layers.LSTM(3, **kwargs))


class MinimalCell(keras.layers.Layer):
    """The cell of the Keras documentation."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, self.units), name="recurrent_kernel"
        )

    def call(self, inputs, states):
        output = keras.ops.matmul(inputs, self.kernel)
        output = keras.ops.tanh(output + keras.ops.matmul(states[0], self.recurrent_kernel))
        return output, [output]


# How to make the layer, its input, the names of the gains.
TWO = ["gain", "recurrent_gain"]
CASES = {
    "SimpleRNN": (lambda **k: keras.layers.SimpleRNN(3, **k), SEQUENCE, TWO),
    "GRU": (lambda **k: keras.layers.GRU(3, **k), SEQUENCE, TWO),
    "LSTM": (lambda **k: keras.layers.LSTM(3, **k), SEQUENCE, TWO),
    "RNN": (lambda **k: keras.layers.RNN(MinimalCell(3), **k), SEQUENCE, TWO),
    "ConvLSTM1D": (lambda **k: keras.layers.ConvLSTM1D(3, 2, **k), FRAMES, TWO),
    "ConvLSTM2D": (lambda **k: keras.layers.ConvLSTM2D(3, (2, 1), **k), FRAMES[..., None, :], TWO),
    "StackedRNNCells": (
        stacked,
        SEQUENCE,
        [f"cell_{i}_{name}" for i in range(2) for name in TWO],
    ),
    "Bidirectional": (
        bidirectional,
        SEQUENCE,
        [f"{side}_{name}" for side in ("forward", "backward") for name in TWO],
    ),
}


def by_formula(wrapper, stock, *args, **kwargs):
    """Calls a stock layer with standardized kernels; differentiable by the wrapper's variables."""
    gains = [v for v in wrapper.trainable_variables if v.name.endswith("gain")]
    values = []
    for variable in wrapper.layer.trainable_variables:
        value = variable.value
        if variable.name.endswith("kernel"):
            axes = (-2, -1) if "/query" in variable.path and variable.shape.rank == 3 else -1
            gain = gains.pop(0).value if gains else None
            value = tfgn.stock.standardize_weights(value, gain, axis=axes)
        values.append(value)
    assert not gains
    y, _ = stock.stateless_call(values, stock.non_trainable_variables, *args, **kwargs)
    return y


def assert_same(actual, expected, tolerance=1e-4):
    np.testing.assert_allclose(actual[0], expected[0], rtol=tolerance)
    for a, b in zip(actual[1], expected[1], strict=True):
        assert a is not None and np.linalg.norm(b) > 1e-5
        assert np.linalg.norm(np.subtract(a, b)) <= tolerance * np.linalg.norm(b)


def pair(make, x, remat=None, **arguments):
    stock = make()
    with keras.RematScope(**(remat or dict(mode=None))):
        wrapper = WeightStandardization(make(), **arguments)
    for each in (wrapper, stock):
        each.build(x.shape)
    randomize(wrapper)
    return wrapper, stock


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", ["eager", "graph", "jit"])
def test_recurrent_layers(name, how):
    make, x, gains = CASES[name]
    wrapper, stock = pair(lambda: make(return_sequences=True), x, gain=True)
    expected = gradients(lambda x: by_formula(wrapper, stock, x), wrapper, x)
    call = lambda: gradients(wrapper, wrapper, x)  # noqa: E731
    actual = call() if how == "eager" else tf.function(call, jit_compile=how == "jit")()
    assert_same(actual, expected)
    assert [v.name for v in wrapper.variables if v.name.endswith("gain")] == gains


FULL = dict(mode="full")
NAMED = dict(mode="list_of_layers", layer_names=["lstm_cell"])


@pytest.mark.parametrize(
    "name, how, remat",
    [
        ("SimpleRNN", "graph", FULL),
        ("LSTM", "eager", FULL),
        ("LSTM", "graph", NAMED),
        ("ConvLSTM1D", "graph", FULL),
        ("Bidirectional", "eager", NAMED),
        ("Bidirectional", "jit", FULL),
    ],
)
def test_recurrent_layers_under_rematerialization(name, how, remat):
    make, x, _ = CASES[name]
    wrapper, stock = pair(make, x, gain=True, remat=remat)
    expected = gradients(lambda x: by_formula(wrapper, stock, x), wrapper, x)
    call = lambda: gradients(wrapper, wrapper, x)  # noqa: E731
    actual = call() if how == "eager" else tf.function(call, jit_compile=how == "jit")()
    assert_same(actual, expected)


def test_a_recurrent_kernel_is_standardized_once_per_call():
    wrapper = WeightStandardization(keras.layers.LSTM(3))
    wrapper.build(SEQUENCE.shape)
    graph = tf.function(wrapper).get_concrete_function(tf.constant(SEQUENCE)).graph
    bodies = [f for f in graph.as_graph_def().library.function]
    assert sum(node.op == "StandardizeWeights" for node in graph.as_graph_def().node) == 2
    assert not any(node.op == "StandardizeWeights" for f in bodies for node in f.node_def)


@pytest.mark.parametrize("name", ["GRU", "LSTM", "Bidirectional"])
def test_states_masks_and_training_pass_through(name):
    make = CASES[name][0]
    wrapper, stock = pair(lambda: make(return_sequences=True, return_state=True), SEQUENCE)
    states = [normal32((2, 3), i) for i in range({"GRU": 1, "LSTM": 2, "Bidirectional": 4}[name])]
    mask = np.arange(5) < [[3], [5]]
    for kwargs in (
        dict(),
        dict(initial_state=states),
        dict(mask=tf.constant(mask)),
        dict(initial_state=states, mask=tf.constant(mask), training=True),
    ):
        y = keras.tree.flatten(wrapper(SEQUENCE, **kwargs))
        expected = keras.tree.flatten(by_formula(wrapper, stock, tf.constant(SEQUENCE), **kwargs))
        assert len(y) == len(states) + 1
        for a, b in zip(y, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    inputs = keras.Input((None, 4))
    outputs = wrapper(keras.layers.Masking()(inputs))
    model = keras.Model(inputs, outputs)
    assert [o.shape[-1] for o in outputs] == [y[0].shape[-1]] + [3] * len(states)
    padded = SEQUENCE * mask[..., None]
    for a, b in zip(model(padded), wrapper(padded, mask=tf.constant(mask)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_dropout_of_a_recurrent_layer_acts_in_training():
    wrapper = WeightStandardization(keras.layers.GRU(8, dropout=0.5, recurrent_dropout=0.3, seed=1))
    stock = keras.layers.GRU(8, dropout=0.5, recurrent_dropout=0.3, seed=1)
    stock.build(SEQUENCE.shape)
    wrapper.build(SEQUENCE.shape)
    plain = wrapper(SEQUENCE)
    np.testing.assert_array_equal(plain, wrapper(SEQUENCE, training=False))
    for seed, state in zip(
        stock.non_trainable_variables, wrapper.non_trainable_variables, strict=True
    ):
        seed.assign(state)
    first, second = wrapper(SEQUENCE, training=True), wrapper(SEQUENCE, training=True)
    assert np.abs(first - plain).max() > 1e-2 and np.abs(first - second).max() > 1e-2
    expected = by_formula(wrapper, stock, tf.constant(SEQUENCE), training=True)
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-6)


def test_a_stateful_layer_keeps_and_resets_its_state():
    wrapper = WeightStandardization(keras.layers.LSTM(3, stateful=True, return_sequences=True))
    whole = WeightStandardization(keras.layers.LSTM(3, return_sequences=True))
    for each in (whole, wrapper):
        each.build(SEQUENCE.shape)
    randomize(whole)
    wrapper.set_weights(whole.get_weights())
    expected = whole(SEQUENCE)
    call = tf.function(wrapper)
    for function in (wrapper, call):
        parts = [function(SEQUENCE[:, :2]), function(SEQUENCE[:, 2:])]
        np.testing.assert_allclose(tf.concat(parts, 1), expected, rtol=1e-5, atol=1e-6)
        assert wrapper.stateful and any(np.any(state) for state in wrapper.states)
        wrapper.reset_state()
        assert not any(np.any(state) for state in wrapper.states)


def test_only_recurrent_layers_have_their_attributes():
    convolution = WeightStandardization(keras.layers.Conv1D(3, 2))
    for name in ("go_backwards", "return_sequences", "stateful", "states", "reset_state"):
        assert not hasattr(convolution, name)


@pytest.mark.parametrize(
    ("layer", "merge_mode"),
    [
        (keras.layers.LSTM, "concat"),
        (keras.layers.GRU, "sum"),
        pytest.param(keras.layers.LSTM, "sum", marks=pytest.mark.thorough),
        pytest.param(keras.layers.GRU, "concat", marks=pytest.mark.thorough),
    ],
)
def test_bidirectional_around_the_wrapper(tmp_path, merge_mode, layer):
    mask = np.arange(5) < [[3], [5]]

    def model(inner):
        sides = keras.layers.Bidirectional(inner, merge_mode=merge_mode)
        inputs = keras.Input((5, 4))
        return keras.Model(inputs, sides(keras.layers.Masking()(inputs)))

    around = model(WeightStandardization(layer(3, return_sequences=True), gain=True))
    sides = around.layers[-1]
    assert (sides.forward_layer.go_backwards, sides.backward_layer.go_backwards) == (False, True)
    randomize(around)
    # The same, the other way round.
    within = keras.Sequential(
        [
            keras.Input((5, 4)),
            keras.layers.Masking(),
            WeightStandardization(
                keras.layers.Bidirectional(layer(3, return_sequences=True), merge_mode=merge_mode),
                gain=True,
            ),
        ]
    )
    wrapper = within.layers[-1]
    for side, prefix in ((sides.forward_layer, "forward_"), (sides.backward_layer, "backward_")):
        getattr(wrapper.layer, prefix + "layer").set_weights(side.layer.get_weights())
        for gain in TWO:
            getattr(wrapper, prefix + gain).assign(getattr(side, gain))
    x = SEQUENCE * mask[..., None]
    y = around(x)
    np.testing.assert_allclose(within(x), y, rtol=1e-5, atol=1e-6)
    for each in (around, within):
        each.compile("sgd", "mse")
        each.fit(x, np.ones_like(y), verbose=0)
        each.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(x), each(x))


def test_kernels_of_a_recurrent_layer_by_name():
    both = WeightStandardization(keras.layers.LSTM(3), kernels=("kernel", "recurrent_kernel"))
    one = WeightStandardization(keras.layers.LSTM(3), kernels="recurrent_kernel")
    default = WeightStandardization(keras.layers.LSTM(3))
    for each in (both, one, default):
        each.build(SEQUENCE.shape)
    randomize(both)
    for each in (one, default):
        each.set_weights(both.get_weights())
    np.testing.assert_array_equal(both(SEQUENCE), default(SEQUENCE))
    assert "kernels" not in default.get_config()
    stock = keras.layers.LSTM(3)
    stock.build(SEQUENCE.shape)
    stock.set_weights(both.get_weights())
    recurrent = stock.cell.recurrent_kernel
    recurrent.assign(tfgn.standardize_weights(recurrent.value))
    np.testing.assert_allclose(one(SEQUENCE), stock(SEQUENCE), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_precision_of_a_recurrent_layer(policy):
    wrapper = WeightStandardization(keras.layers.LSTM(3, dtype=policy))
    stock = keras.layers.LSTM(3, dtype=policy)
    for each in (wrapper, stock):
        each.build(SEQUENCE.shape)
    randomize(wrapper)
    stock.set_weights(wrapper.get_weights())
    for name in ("kernel", "recurrent_kernel"):
        kernel = getattr(stock.cell, name)
        kernel.assign(tfgn.stock.standardize_weights(kernel.value, dtype=stock.compute_dtype))
    y = wrapper(SEQUENCE)
    assert y.dtype == stock.compute_dtype
    np.testing.assert_allclose(
        tf.cast(y, "float64"), tf.cast(stock(SEQUENCE), "float64"), rtol=1e-2, atol=1e-2
    )
