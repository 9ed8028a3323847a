"""A training step of a model, with all that two steps must have in common."""

import keras
import numpy as np
import tensorflow as tf


def by_path(variables):
    named = {variable.path: variable for variable in variables}
    assert len(named) == len(variables)
    return named


def copy_weights(source, target):
    """Assigns the weights of a model to those of another one with the same paths."""
    weights = by_path(source.weights)
    assert weights.keys() == by_path(target.weights).keys()
    for variable in target.weights:
        variable.assign(weights[variable.path])


def training_step(model, inputs, *, graph=True, jit=False):
    """Returns the outputs, the loss, and the gradients by path, `x0`, `x1`, ... those of inputs.

    Args:
        model: any model.
        inputs: what it is called with.
        graph: whether the step runs in a `tf.function`.
        jit: whether XLA compiles it.
    """
    values = [v.value for v in model.trainable_variables]

    def step(inputs):
        flat = keras.tree.flatten(inputs)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            outputs = model(inputs, training=True)
            terms = [
                tf.reduce_mean(tf.square(tf.cast(y, "float32") - 0.5))
                for y in keras.tree.flatten(outputs)
            ]
            loss = tf.add_n([*terms, *model.losses])
        return outputs, loss, tape.gradient(loss, [*flat, *values])

    function = tf.function(step, jit_compile=jit) if graph else step
    outputs, loss, gradients = function(keras.tree.map_structure(tf.convert_to_tensor, inputs))
    names = [f"x{i}" for i in range(len(gradients) - len(values))]
    names += by_path(model.trainable_variables)
    return outputs, loss, dict(zip(names, gradients, strict=True))


def assert_same_steps(actual, expected):
    """Compares two results of `training_step` bit by bit."""
    assert actual[2].keys() == expected[2].keys()
    for a, b in zip(*map(keras.tree.flatten, (actual[:2], expected[:2])), strict=True):
        np.testing.assert_array_equal(a, b)
    for path, gradient in expected[2].items():
        np.testing.assert_array_equal(actual[2][path], gradient, err_msg=path)
    assert any(gradient is not None and np.any(gradient) for gradient in expected[2].values())
