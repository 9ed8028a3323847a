"""The ways to name an activation: fused where the kernel has it, saved and loaded in any case."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_groupnorm.layers import GroupNormalization, _group_normalization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

layers = keras.layers
FUSED = {
    "linear": [
        lambda: None,
        lambda: "linear",
        lambda: keras.activations.linear,
        lambda: tf.identity,
        layers.Identity,
        lambda: layers.Activation("linear"),
    ],
    "relu": [
        lambda: "relu",
        lambda: keras.activations.relu,
        lambda: keras.ops.relu,
        lambda: tf.nn.relu,
        lambda: tf.keras.activations.relu,
        layers.ReLU,
        lambda: layers.ReLU(name="mine"),
        lambda: layers.ReLU(dtype="float64"),
        lambda: layers.Activation("relu"),
        lambda: layers.Activation(tf.nn.relu),
        lambda: layers.Activation(layers.ReLU()),
    ],
    "silu": [
        lambda: "silu",
        lambda: "swish",
        lambda: keras.activations.silu,
        lambda: keras.activations.swish,
        lambda: keras.ops.silu,
        lambda: keras.ops.swish,
        lambda: tf.nn.silu,
        lambda: tf.nn.swish,
        lambda: layers.Activation("swish"),
        lambda: layers.Activation(keras.ops.silu),
    ],
}


@keras.saving.register_keras_serializable("tests")
def twice(x):
    return 2 * x


@keras.saving.register_keras_serializable("tests")
def relu(x):
    """Of a user who likes the name."""
    return tf.maximum(x, -1)


def _clash():
    def silu(x):
        return -x

    return silu


CLASH = _clash()
# glu halves the channels, threshold takes more arguments.
NAMED = [
    (name, module.__name__, getattr(module, name))
    for module in (keras.ops, tf.nn)
    for name in sorted(set(dir(keras.activations)) - {"glu", "threshold"})
    if not name.startswith("_") and hasattr(module, name) and (module, name) != (keras.ops, "gelu")
]

OTHERS = [
    lambda: "gelu",
    lambda: tf.nn.elu,
    lambda: keras.ops.leaky_relu,
    lambda: twice,
    lambda: relu,
    lambda: layers.ReLU(max_value=1.0),
    lambda: layers.ReLU(negative_slope=0.5),
    lambda: layers.ReLU(threshold=0.5),
    lambda: layers.ReLU(dtype="float16"),
    lambda: layers.ReLU(activity_regularizer="l2"),
    lambda: layers.LeakyReLU(negative_slope=0.2),
    lambda: layers.Activation("tanh"),
    lambda: layers.PReLU(alpha_initializer="ones", shared_axes=[1, 2]),
]


def images():
    return tf.constant(np.random.default_rng(0).normal(size=(2, 6, 5, 16)).astype("float32"))


def saved_and_loaded(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    return keras.saving.load_model(path)


def assert_saves_and_loads(layer, x, tmp_path):
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    model.set_weights([w + 0.5 for w in model.get_weights()])
    loaded = saved_and_loaded(model, tmp_path)
    np.testing.assert_array_equal(loaded(x), model(x))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(x), model(x))


@pytest.mark.parametrize(
    "name, make", [(name, make) for name, makes in FUSED.items() for make in makes]
)
def test_fused(name, make, monkeypatch, tmp_path):
    layer, x = GroupNormalization(4, activation=make()), images()
    function = {"linear": lambda x: x, "relu": tf.nn.relu, "silu": tf.nn.silu}[name]
    np.testing.assert_allclose(layer(x), function(GroupNormalization(4)(x)), atol=1e-5)
    assert layer.get_config().get("activation", "linear") == name
    assert_saves_and_loads(layer, x, tmp_path)
    asked = []
    group_norm = _group_normalization.fused.group_norm

    def recorded(*args, activation, **kwargs):
        asked.append(activation)
        return group_norm(*args, activation=activation, **kwargs)

    monkeypatch.setattr(_group_normalization.fused, "group_norm", recorded)
    layer(x)
    assert asked == [name]


@pytest.mark.parametrize("make", OTHERS)
def test_not_fused(make, tmp_path):
    layer, x = GroupNormalization(4, activation=make()), images()
    function = keras.activations.get(make())
    np.testing.assert_allclose(layer(x), function(GroupNormalization(4)(x)), atol=1e-5)
    assert_saves_and_loads(layer, x, tmp_path)


def test_a_layer_with_weights_trains():
    layer, x = GroupNormalization(4, activation=layers.PReLU()), images()
    layer.build(x.shape)
    assert [w.name for w in layer.trainable_weights] == ["gamma", "beta", "alpha"]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x))
    assert all(np.any(g) for g in tape.gradient(loss, layer.trainable_variables))


@pytest.mark.parametrize("name, module, function", NAMED)
def test_functions_of_the_same_name_are_the_same(name, module, function):
    """What is saved by name loads as the function that was given."""
    assert name not in ("get", "serialize", "deserialize")
    layer = GroupNormalization(4, activation=function)
    again = GroupNormalization.from_config(layer.get_config())
    x = images()
    np.testing.assert_allclose(again(x), function(GroupNormalization(4)(x)), atol=1e-5)


@pytest.mark.parametrize("function", [keras.ops.gelu, CLASH])
def test_functions_that_no_name_leads_to_are_not_saved(function):
    layer = GroupNormalization(4, activation=function)
    assert layer(images()).shape == (2, 6, 5, 16)
    with pytest.raises(ValueError, match="cannot be saved: the name '(gelu|silu)' stands for"):
        layer.get_config()


def test_another_type_is_refused():
    with pytest.raises(ValueError, match="activation function identifier: 3"):
        GroupNormalization(4, activation=3)
