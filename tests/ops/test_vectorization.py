"""`tf.vectorized_map` and Jacobians run our ops once, for all iterations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow_groupnorm import ops

ITERATIONS, BATCH, CHANNELS = 5, 2, 8
SHAPE = (BATCH, 3, 4, CHANNELS)


def draw(*shape, seed=0, dtype="float32"):
    return tf.constant(np.random.default_rng([seed, *shape]).normal(1, 2, shape), dtype)


def check(function, stacked, constants=(), rtol=1e-5):
    """Compares a function of one slice of each stacked tensor with a loop over the slices."""

    def of_slice(slices):
        return function(*slices, *constants)

    @tf.function
    def vectorized(tensors):
        return tf.vectorized_map(of_slice, tensors, fallback_to_while_loop=False)

    actual = tf.nest.flatten(vectorized(stacked))
    rows = [
        tf.nest.flatten(of_slice([t[i] for t in stacked])) for i in range(int(stacked[0].shape[0]))
    ]
    for result, *expected in zip(actual, *rows, strict=True):
        assert np.any(np.stack(expected) != 0)
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(result, np.stack(expected), rtol=rtol, atol=rtol * scale)


def gradients(function):
    """Returns a function that returns the value and all gradients of another one."""

    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = function(*tensors)
            loss = tf.reduce_sum(tf.sin(tf.cast(y, "float32")))
        return y, tape.gradient(loss, tensors)

    return run


def norm(**options):
    return lambda x, gamma, beta, *residual: ops.group_norm(
        x, gamma, beta, 4, residual=residual[0] if residual else None, **options
    )


X, RESIDUAL = draw(ITERATIONS, *SHAPE), draw(ITERATIONS, *SHAPE, seed=1)
GAMMA, BETA = draw(CHANNELS), draw(CHANNELS, seed=1)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_samples_of_a_shared_norm(activation):
    check(gradients(norm(activation=activation)), [X], [GAMMA, BETA])


def test_residual():
    run = gradients(norm(activation="relu"))
    check(lambda x, residual, *rest: run(x, *rest, residual), [X, RESIDUAL], [GAMMA, BETA])
    check(lambda x, *rest: run(x, *rest), [X], [GAMMA, BETA, RESIDUAL[0]])


@pytest.mark.parametrize("per_sample", [False, True])
def test_scales_and_shifts_of_each_iteration(per_sample):
    shape = (ITERATIONS, *([BATCH] if per_sample else []), CHANNELS)
    run = gradients(norm(activation="silu"))
    check(run, [X, draw(*shape), draw(*shape, seed=1)])
    check(lambda gamma, x, beta: run(x, gamma, beta), [draw(*shape)], [X[0], BETA])


def test_scales_of_each_sample_shared_by_the_iterations():
    check(gradients(norm()), [X], [draw(BATCH, CHANNELS), BETA])


def test_without_scale_and_shift():
    check(gradients(lambda x: ops.group_norm(x, groups=4)), [X])


def test_channels_first():
    check(gradients(norm(axis=1)), [draw(ITERATIONS, 2, CHANNELS, 3, 3)], [GAMMA, BETA])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_types(dtype):
    parameters = "float64" if dtype == "float64" else "float32"
    constants = [tf.cast(GAMMA, parameters), tf.cast(BETA, parameters)]
    tolerance = {"float64": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    check(gradients(norm(activation="silu")), [tf.cast(X, dtype)], constants, tolerance)


def test_a_norm_of_gradients_given_the_same_input():
    """As in a Jacobian: the input is that of all iterations, its gradient is not."""
    run = gradients(lambda x, dy: norm()(x, GAMMA, BETA) * dy)
    check(lambda dy, x: run(x, dy), [X], [RESIDUAL[0]])


@pytest.mark.parametrize("axis", [-1, 3, (2, 3), (-1, 0)])
@pytest.mark.parametrize("gain", [False, True])
def test_standardized_weights(axis, gain):
    shape = (3, 3, 2, 4)
    channels = int(np.prod([shape[a] for a in np.atleast_1d(axis)]))

    def run(w, factor, gain=None):
        with tf.GradientTape() as tape:
            tape.watch((w, gain) if gain is not None else w)
            loss = tf.reduce_sum(tf.sin(factor * ops.standardize_weights(w, gain, axis=axis)))
        return tape.gradient(loss, (w, gain) if gain is not None else w)

    w, factors = draw(ITERATIONS, *shape), draw(ITERATIONS, *shape, seed=1)
    check(run, [w, factors], [draw(channels)] * gain)
    check(
        lambda factor, w, *gain: run(w, factor, *gain), [factors], [w[0], *[draw(channels)] * gain]
    )


def network(channels_of_norm=4):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 3))
    for filters in (8, 8):
        x = tfgn.layers.StandardizedConv2D(filters, 3, padding="same", gain=True)(x)
        x = tfgn.layers.GroupNormalization(channels_of_norm, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


def gradients_of_sample(model, image):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(image[None], training=True)))
    return tape.gradient(loss, [v.value for v in model.trainable_variables])


@pytest.mark.parametrize("jit", [False, True])
def test_gradients_of_each_sample_of_a_network(jit):
    model, images = network(), draw(ITERATIONS, 6, 6, 3)

    @tf.function(jit_compile=jit)
    def vectorized(images):
        return tf.vectorized_map(
            lambda image: gradients_of_sample(model, image), images, fallback_to_while_loop=False
        )

    rows = zip(*(gradients_of_sample(model, image) for image in images), strict=True)
    for actual, expected in zip(vectorized(images), rows, strict=True):
        assert np.any(np.stack(expected) != 0)
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(actual, np.stack(expected), rtol=1e-4, atol=1e-5 * scale)


def test_a_recomputed_norm():
    normalization = tfgn.layers.GroupNormalization(4, activation="relu")
    reader = tfgn.layers.StandardizedConv2D(4, 3)
    layer = tfgn.layers.RecomputedNormalization(normalization, reader)
    model = keras.Sequential([keras.Input((6, 6, 8)), layer])
    images = draw(ITERATIONS, 6, 6, 8)
    check(lambda image: gradients_of_sample(model, image), [images], rtol=1e-4)


def test_jacobians():
    x = tf.Variable(draw(2, 3, 3, CHANNELS))
    gamma = tf.Variable(GAMMA)

    def jacobians(use_pfor):
        with tf.GradientTape(persistent=True) as tape:
            y = ops.group_norm(x, gamma, BETA, 4, activation="silu")
        return [tape.jacobian(y, v, experimental_use_pfor=use_pfor) for v in (x, gamma)]

    for actual, expected in zip(jacobians(True), jacobians(False), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
