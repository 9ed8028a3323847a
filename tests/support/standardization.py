"""What the tests of standardized layers share: weights, inputs, gradients."""

import keras
import numpy as np
import tensorflow as tf


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1, shape)


def normal32(shape, seed=0):
    return normal(shape, seed).astype("float32")


def randomize(layer_or_model):
    weights = layer_or_model.get_weights()
    layer_or_model.set_weights([normal(w.shape, seed) for seed, w in enumerate(weights)])


def gradients(call, wrapper, x):
    """Returns a loss of what `call(x)` gives, and its gradients of the weights and of `x`."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = keras.tree.flatten(call(x))
        loss = tf.add_n([tf.reduce_sum(tf.sin(3 * y)) for y in outputs])
    return loss, tape.gradient(loss, [*(v.value for v in wrapper.trainable_variables), x])
