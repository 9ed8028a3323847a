"""Derivatives of first and second order, against central differences and each other."""

import numpy as np
import tensorflow as tf
from tensors import random


def array(x):
    return np.asarray(tf.cast(x, tf.float64))


def relative_error(actual, expected):
    actual, expected = array(actual), array(expected)
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-300)


def check_derivatives(f, inputs, rng, tolerance=1e-6):
    """First- and second-order derivatives against central differences along random directions."""

    def gradients(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            # Not linear in f, so that the gradient of the output contributes to the second order.
            total = tf.reduce_sum(tf.sin(f(*inputs)))
        return tape.gradient(total, inputs)

    step = 1e-6
    for function in (lambda *inputs: [f(*inputs)], gradients):
        for i, x in enumerate(inputs):
            direction = random(rng, x.shape)
            cotangents = [random(rng, t.shape) for t in function(*inputs)]

            def along(t, function=function, i=i, direction=direction, cotangents=cotangents):
                moved = [*inputs[:i], inputs[i] + t * direction, *inputs[i + 1 :]]
                values = function(*moved)
                return sum(tf.reduce_sum(a * b) for a, b in zip(values, cotangents, strict=True))

            t = tf.constant(0.0, tf.float64)
            with tf.GradientTape() as tape:
                tape.watch(t)
                value = along(t)
            numeric = (along(t + step) - along(t - step)) / (2 * step)
            np.testing.assert_allclose(
                tape.gradient(value, t), numeric, rtol=tolerance, atol=tolerance
            )


def first_and_second_order(function, inputs, dy, cotangents):
    """`function(*inputs, dy)`, a list, and the gradient of its product with `cotangents`."""
    with tf.GradientTape() as tape:
        tape.watch([*inputs, dy])
        first = function(*inputs, dy)
        total = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(first, cotangents, strict=True)])
    return first, tape.gradient(total, [*inputs, dy], unconnected_gradients="zero")


def by_autodiff(f):
    def gradients(*inputs_and_dy):
        *inputs, dy = inputs_and_dy
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = f(*inputs)
        return tape.gradient(y, inputs, dy)

    return gradients
