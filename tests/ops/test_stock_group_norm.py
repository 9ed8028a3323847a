"""The portable group norm, against float64 NumPy and numerical derivatives."""

import itertools
import warnings

import numpy as np
import pytest
import reference
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from derivatives import (
    array,
    by_autodiff,
    check_derivatives,
    first_and_second_order,
    random,
    relative_error,
)
from tensorflow_groupnorm import stock

EPSILON = 2.0**-10  # The same in float32 and float64.


def group_norm_float64(x, gamma=None, beta=None, groups=4, axis=-1, activation=None, side=None):
    result = reference.group_norm(
        *(None if t is None else array(t) for t in (x, gamma, beta, side)),
        groups=groups,
        axis=axis,
        epsilon=EPSILON,
        activation=activation or "linear",
    )
    return result.y.astype(np.float64)


def group_norm_arguments(rng, rank=4, axis=-1, per_sample=False, dtype="float64"):
    shape = [3, 4, 5, 2, 3][:rank]
    shape[axis] = 8
    parameter = [3, 8] if per_sample else [8]
    dtypes = [dtype, *2 * ["float64" if dtype == "float64" else "float32"], dtype]
    return [
        random(rng, s, d) for s, d in zip([shape, parameter, parameter, shape], dtypes, strict=True)
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("rank, axis", [(2, 1), (3, -1), (4, -1), (4, 1), (5, 2), (5, -1)])
def test_group_norm_values(dtype, rank, axis):
    rng = np.random.default_rng(0)
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-6, "float64": 1e-13}[dtype]
    for activation, affine, with_residual, per_sample in itertools.product(
        ("linear", "relu", "silu"), (True, False), (True, False), (True, False)
    ):
        x, gamma, beta, residual = group_norm_arguments(rng, rank, axis, per_sample, dtype)
        gamma, beta = (gamma, beta) if affine else (None, None)
        residual = residual if with_residual else None
        y = stock.group_norm(
            x,
            gamma,
            beta,
            4,
            axis=axis,
            epsilon=EPSILON,
            activation=activation,
            residual=residual,
        )
        assert y.dtype == x.dtype and y.shape == x.shape
        expected = group_norm_float64(x, gamma, beta, 4, axis, activation, residual)
        assert relative_error(y, expected) < tolerance


@pytest.mark.parametrize("function", [tfgn.group_norm, stock.group_norm])
@pytest.mark.parametrize("axis", [-1, 1])
def test_groups_minus_one_is_as_many_as_channels(function, axis):
    x = random(np.random.default_rng(0), [2, 6, 6, 6], "float32")
    y = function(x, groups=-1, axis=axis)
    np.testing.assert_array_equal(y, function(x, groups=6, axis=axis))
    unknown = tf.TensorSpec([2, 6, None, None] if axis == -1 else [2, None, None, 6])
    for spec in (unknown, tf.TensorSpec(None)):
        with pytest.raises(ValueError, match="groups=-1.*number of channels|`x` must have a known"):
            tf.function(lambda x: function(x, groups=-1, axis=axis), input_signature=[spec])(x)


@pytest.mark.parametrize("function", [tfgn.group_norm, stock.group_norm])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64", "string"])
def test_group_norm_takes_floats_only(function, dtype):
    x = tf.constant([["a"] * 8] * 2) if dtype == "string" else tf.cast(tf.ones([2, 8]), dtype)
    message = f"`x` must be float16, bfloat16, float32 or float64. Received: x.dtype={dtype}"
    for call in (function, tf.function(function, autograph=False)):
        with pytest.raises(ValueError, match=message):
            call(x, groups=2)


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
@pytest.mark.parametrize("shape, groups", [((2, 30, 20, 64), 32), ((1, 200, 150, 24), 3)])
def test_group_norm_keeps_its_accuracy_far_from_zero(mean, shape, groups):
    x = np.random.default_rng(1).normal(mean, size=shape).astype(np.float32)
    y = stock.group_norm(x, groups=groups, epsilon=EPSILON)
    expected = group_norm_float64(x, groups=groups)
    # The bound of the fused op for rstd = 1, gamma = 1.
    bound = 2.0**-24 * (8 * (1 + mean) + 2 * np.abs(expected))
    assert np.all(np.abs(y - expected) <= bound)


def test_float16_squares_beyond_the_float16_range():
    x = tf.constant(np.random.default_rng(2).normal(0, 2e4, (2, 8, 8, 8)).clip(-6e4, 6e4), "half")
    y = stock.group_norm(x, groups=2, epsilon=EPSILON)
    expected = group_norm_float64(x, groups=2)
    np.testing.assert_allclose(y, expected, atol=2e-3)


@pytest.mark.parametrize("activation", ["linear", "relu", "silu"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_group_norm_derivatives(activation, per_sample):
    rng = np.random.default_rng(3)

    def f(x, gamma, beta, residual):
        return stock.group_norm(x, gamma, beta, 4, axis=1, activation=activation, residual=residual)

    check_derivatives(f, group_norm_arguments(rng, 4, 1, per_sample), rng)


@pytest.mark.parametrize("activation", ["linear", "relu", "silu"])
@pytest.mark.parametrize("axis, per_sample", [(-1, False), (1, True), (2, False)])
def test_group_norm_grad_is_the_gradient_to_second_order(activation, axis, per_sample):
    rng = np.random.default_rng(4)
    inputs = group_norm_arguments(rng, 4, axis, per_sample)
    dy = random(rng, inputs[0].shape)
    cotangents = [random(rng, t.shape) for t in (*inputs, inputs[0])]
    rows = np.moveaxis(inputs[0].numpy(), axis, 1).reshape(3, 4, -1)
    mean = tf.constant(rows.mean(-1))
    rstd = tf.constant(1 / np.sqrt(rows.var(-1) + EPSILON))

    def explicit(x, gamma, beta, side, dy):
        *gradients, y = stock.group_norm_grad(
            dy, x, gamma, beta, mean, rstd, side, groups=4, axis=axis, activation=activation
        )
        return [*gradients, y]

    def f(x, gamma, beta, side):
        return stock.group_norm(
            x,
            gamma,
            beta,
            4,
            axis=axis,
            epsilon=EPSILON,
            activation=activation,
            residual=side,
        )

    def autodiff(*inputs_and_dy):
        return [*by_autodiff(f)(*inputs_and_dy), f(*inputs_and_dy[:-1])]

    actual = first_and_second_order(explicit, inputs, dy, cotangents)
    expected = first_and_second_order(autodiff, inputs, dy, cotangents)
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert relative_error(a, b) < 1e-11


def test_group_norm_grad_uses_the_saved_statistics():
    x = random(np.random.default_rng(5), [2, 6, 4])
    mean, rstd = tf.zeros([2, 2], tf.float64), tf.fill([2, 2], tf.constant(3.0, tf.float64))
    arguments = dict(groups=2, axis=-1, activation=None)
    dx, dgamma, dbeta, dside, _ = stock.group_norm_grad(
        tf.ones_like(x), x, tf.ones([4], tf.float64), None, mean, rstd, None, **arguments
    )
    np.testing.assert_allclose(dgamma, 3 * tf.reduce_sum(x, [0, 1]))
    rows = x.numpy().reshape(2, 6, 2, 2)
    expected = -3 * 3 * rows * 3 * rows.mean((1, 3), keepdims=True)
    np.testing.assert_allclose(dx, expected.reshape(x.shape), atol=1e-12)
    assert dbeta is None and dside is None


@pytest.mark.parametrize("shape", [(0, 4, 4, 8), (2, 0, 4, 8), (2, 4, 0, 8)])
def test_group_norm_of_nothing(shape):
    x, gamma = tf.zeros(shape), tf.ones([8])
    with tf.GradientTape() as tape:
        tape.watch([x, gamma])
        y = stock.group_norm(x, gamma, groups=4, activation="silu", residual=x)
    dx, dgamma = tape.gradient(y, [x, gamma])
    assert y.shape == dx.shape == shape
    np.testing.assert_array_equal(dgamma, np.zeros(8))


@pytest.mark.parametrize("shape", [[None, None, None, 8], [3, None, 5, None], [None] * 4])
def test_group_norm_of_unknown_shapes(shape):
    x, gamma, beta, _ = group_norm_arguments(np.random.default_rng(6), 4)
    traced = tf.function(
        lambda x: stock.group_norm(x, gamma, beta, 4),
        input_signature=[tf.TensorSpec(shape, tf.float64)],
    )
    np.testing.assert_allclose(traced(x), stock.group_norm(x, gamma, beta, 4), atol=1e-14)


def test_group_norm_in_transformations():
    x, gamma, beta, residual = group_norm_arguments(np.random.default_rng(7), 4)

    def f(x):
        return stock.group_norm(x, gamma, beta, 4, activation="silu")

    expected = f(x)
    np.testing.assert_allclose(tf.function(f, jit_compile=True)(x), expected, rtol=1e-12)
    one_by_one = x[:, tf.newaxis]
    np.testing.assert_allclose(tf.vectorized_map(f, one_by_one)[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(tf.map_fn(f, one_by_one)[:, 0], expected, rtol=1e-12)
    with tf.autodiff.ForwardAccumulator(x, residual) as accumulator, tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    dy = tf.sin(y)
    np.testing.assert_allclose(
        tf.reduce_sum(accumulator.jvp(y) * dy),
        tf.reduce_sum(tape.gradient(y, x, dy) * residual),
        rtol=1e-11,
    )


def test_group_norm_converts_to_tflite():
    x, gamma, beta, residual = group_norm_arguments(np.random.default_rng(8), 4, dtype="float32")
    traced = tf.function(
        lambda x, residual: stock.group_norm(
            x, gamma, beta, 4, activation="silu", residual=residual
        ),
        input_signature=2 * [tf.TensorSpec([None, *x.shape[1:]])],
    )
    module = tf.Module()
    module.f = traced
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], module
    )
    # Without SELECT_TF_OPS, so none but TFLite's own ops may be left.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite announces its move to LiteRT.
        interpreter = tf.lite.Interpreter(model_content=converter.convert())
    runner = interpreter.get_signature_runner()
    (y,) = runner(x=x, residual=residual).values()
    np.testing.assert_allclose(y, traced(x, residual), atol=2e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(groups=3), r"`groups`.*divide.*groups=3 for 8 channels"),
        (dict(groups=0), r"`groups`.*groups=0"),
        (dict(axis=0), r"`axis`.*axis=0"),
        (dict(axis=3), r"`axis`.*axis=3"),
        (dict(activation="gelu"), r"`activation`.*'gelu'"),
        (dict(epsilon=-1.0), r"`epsilon`.*-1.0"),
        (dict(gamma=tf.ones([4])), r"`gamma`.*\(8,\).*\(4,\)"),
        (dict(beta=tf.ones([3, 8])), r"`beta`.*\(2, 8\).*\(3, 8\)"),
        (dict(residual=tf.ones([2, 5, 4])), r"`residual`.*\(2, 5, 8\).*\(2, 5, 4\)"),
        (dict(residual=tf.ones([2, 5, 8], tf.float16)), r"`residual`.*float32.*float16"),
        (dict(x=tf.ones([8])), r"`x`.*rank >= 2.*\(8,\)"),
        (dict(x=tf.ones([2, 8], tf.int32)), r"`x`.*int32"),
    ],
)
def test_group_norm_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        stock.group_norm(**dict(x=tf.ones([2, 5, 8]), groups=4) | arguments)
