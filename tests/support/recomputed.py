"""Pairs of networks: plain layers, and a `RecomputedNormalization` that holds the same layers."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from kept_tensors import operations_for
from tensorflow_groupnorm.layers import RecomputedNormalization


def both(norm, readers, shape=(8, 8, 4), call=(), single=False):
    """Returns a plain and a recomputed model of one norm and its readers, with equal weights.

    Args:
        norm: returns a new norm.
        readers: returns a list of new lists of layers.
        shape: of an image.
        call: names of further inputs: `residual`, `scale` or `shift`.
        single: whether to pass the only reader as a layer.
    """
    models = []
    for recomputed in (False, True):
        x = keras.Input(shape)
        channels = shape[0] if keras.config.image_data_format() == "channels_first" else shape[-1]
        further = {name: keras.Input(shape if name == "residual" else (channels,)) for name in call}
        # A layer before the norm, to see the gradient of its input arrive.
        before = keras.layers.Dense(channels, name="before")(x)
        normalization, layers = norm(), readers()
        if recomputed:
            given = layers[0][0] if single else layers
            outputs = RecomputedNormalization(normalization, given)(before, **further)
        else:
            y = normalization(before, **further)
            outputs = [applied(reader, y) for reader in layers]
        models.append(keras.Model([x, *further.values()], outputs))
    plain, recomputed = models
    copy_weights(plain, recomputed)
    return plain, recomputed


def applied(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def by_name(variables):
    """Returns variables by the names of their layer and their own."""
    return {"/".join(v.path.split("/")[-2:]): v for v in variables}


def copy_weights(source, target):
    rng = np.random.default_rng(3)
    values = by_name(source.weights)
    assert sorted(values) == sorted(by_name(target.weights))
    for name, variable in by_name(target.weights).items():
        values[name].assign(values[name] + 0.1 * rng.normal(size=variable.shape))
        variable.assign(values[name].value)


def inputs_of(model, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(batch, *x.shape[1:])).astype(x.dtype) for x in model.inputs]


def training_step(model, inputs, *, graph=True, jit=False):
    """Returns the loss, the outputs, and the gradients by name, `x0`, `x1`, ... those of inputs."""
    values = [v.value for v in model.trainable_variables]

    def run(*xs):
        with tf.GradientTape() as tape:
            tape.watch(xs)
            outputs = tf.nest.flatten(model(list(xs), training=True))
            loss = sum(tf.reduce_mean(tf.square(tf.cast(y, "float32"))) for y in outputs)
        return loss, outputs, tape.gradient(loss, [*xs, *values])

    function = tf.function(run, jit_compile=jit) if graph else run
    loss, outputs, gradients = function(*map(tf.constant, inputs))
    names = [f"x{i}" for i in range(len(inputs))] + list(by_name(model.trainable_variables))
    return loss, outputs, dict(zip(names, gradients, strict=True))


def assert_same(actual, expected):
    """Compares two results of `training_step` bit by bit."""
    assert actual[0].numpy() == expected[0].numpy()
    for a, b in zip(actual[1], expected[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(actual[2]) == sorted(expected[2])
    for name, gradient in expected[2].items():
        assert np.any(gradient.numpy() != 0), name
        np.testing.assert_array_equal(actual[2][name], gradient, err_msg=name)


def fit(model, jit=False, **optimizer):
    """Trains a model for a few steps and returns its weights by name."""
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, **optimizer), "mse", jit_compile=jit)
    x = inputs_of(model, batch=8)
    y = [np.ones((8, *out.shape[1:]), "float32") for out in model.outputs]
    model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    assert model.jit_compile is jit
    return {name: v.numpy() for name, v in by_name(model.weights).items()}


def gradient_operations(model, inputs):
    """Returns the operations of the graph of a training step that its gradients need."""
    values = [v.value for v in model.trainable_variables]

    @tf.function
    def run(*xs):
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(model(list(xs), training=True))
            loss = sum(tf.reduce_mean(tf.square(y)) for y in outputs)
        return tape.gradient(loss, values)

    return operations_for(run.get_concrete_function(*map(tf.constant, inputs)).graph.outputs)


def norm(**kwargs):
    return lambda: tfgn.layers.GroupNormalization(2, name="norm", **kwargs)
