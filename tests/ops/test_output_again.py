"""GroupNormGrad with y: the very bits of GroupNorm, and the gradients of the op without it."""

import functools

import cases
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from group_norm_checks import EPSILON, make_arguments
from parameters import named
from tensorflow_groupnorm import ops
from tensors import random
from test_gradients import SMALL, assert_all_close, group_norm_arguments, jvp

CASES = cases.GROUP_NORM | cases.VECTOR_EDGES


def call(mode, function, *arguments):
    if mode == "eager":
        return function(*arguments)
    return tf.function(function, jit_compile=mode == "jit", autograph=False)(*arguments)


def same_bits(actual, expected):
    actual, expected = tf.nest.flatten(actual), tf.nest.flatten(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


def forward(case, activation, x, gamma, beta, side):
    options = {"axis": case.axis, "epsilon": EPSILON, "activation": activation, "residual": side}
    return ops.group_norm_with_statistics(x, gamma, beta, case.groups, **options)


def gradient(case, activation, saved, dy, x, gamma, beta, side):
    options = {"axis": case.axis, "groups": case.groups, "activation": activation}
    return ops.group_norm_gradient(dy, x, gamma, beta, *saved, side, **options)


def by_tape(case, activation, dy, x, gamma, beta, side):
    """The gradients of `group_norm`, None for what is None."""
    sources = {i: t for i, t in enumerate((x, gamma, beta, side)) if t is not None}
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y, *_ = forward(case, activation, x, gamma, beta, side)
    gradients = tape.gradient(y, sources, dy)
    return [gradients.get(i) for i in range(4)]


def check(mode, case, dtype, activation, **options):
    arguments = list(make_arguments(case, dtype, mean=0.5, **options).values())
    dy = random(np.random.default_rng(1), case.shape, dtype)
    y, *saved = call(mode, functools.partial(forward, case, activation), *arguments)
    same_bits(y, forward(case, activation, *arguments)[0])
    *gradients, again = call(
        mode, functools.partial(gradient, case, activation), saved, dy, *arguments
    )
    same_bits(again, y)
    expected = by_tape(case, activation, dy, *arguments)
    assert [g is None for g in gradients] == [g is None for g in expected]
    same_bits([g for g in gradients if g is not None], [g for g in expected if g is not None])


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize("case", named(CASES))
def test_every_shape(case, dtype, mode):
    for activation in cases.ACTIVATIONS:
        check(mode, case, dtype, activation, residual=activation != "silu")


@pytest.mark.parametrize("case", named(cases.GROUP_NORM))
def test_every_shape_under_jit(case):
    check("jit", case, "float32", "silu", residual=True)


@pytest.mark.parametrize("affine", cases.AFFINE)
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize("layout", ["image_last", "image_first"])
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_every_form(mode, layout, dtype, activation, residual, affine):
    check(mode, cases.GROUP_NORM[layout], dtype, activation, residual=residual, affine=affine)


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("case", named(cases.EMPTY))
def test_no_elements(case, activation, mode):
    check(mode, case, "float32", activation, residual=True)


def test_parameters_of_another_type_get_gradients_of_theirs():
    case = cases.GROUP_NORM["image_last"]
    arguments = make_arguments(case, "bfloat16")
    x, gamma, beta = arguments["x"], *(tf.cast(arguments[n], "bfloat16") for n in ("gamma", "beta"))
    _, *saved = forward(case, "relu", x, gamma, beta, None)
    dx, dgamma, dbeta, none, _ = gradient(case, "relu", saved, x, x, gamma, beta, None)
    assert none is None and {g.dtype for g in (dx, dgamma, dbeta)} == {tf.bfloat16}


def training_step(case, activation, with_y, **tensors):
    """The gradients of a loss of y, and y, by way of either function."""
    x, gamma, beta, side = (tensors.get(n) for n in ("x", "gamma", "beta", "residual"))
    y, *saved = forward(case, activation, x, gamma, beta, side)
    dy = tf.cos(tf.stop_gradient(tf.range(tf.size(y), dtype=y.dtype)))
    dy = tf.reshape(dy, tf.shape(y)) + 0.5 * x
    if with_y:
        outputs = gradient(case, activation, saved, dy, x, gamma, beta, side)
        return [t for t in outputs if t is not None]
    options = {"axis": case.axis, "epsilon": EPSILON, "activation": activation, "residual": side}
    with tf.GradientTape() as tape:
        sources = [t for t in (x, gamma, beta, side) if t is not None]
        tape.watch(sources)
        y = tfgn.stock.group_norm(x, gamma, beta, case.groups, **options)
    return [*tape.gradient(y, sources, dy), y]


@pytest.mark.parametrize(
    "activation, residual, affine",
    [
        ("linear", True, "per_channel"),
        ("relu", False, "per_channel"),
        ("silu", False, "absent"),
        ("silu", True, "per_sample"),
    ],
)
@pytest.mark.parametrize("layout", ["image_last", "image_first"])
def test_second_order_and_forward_mode(layout, activation, residual, affine):
    case = SMALL[layout]
    arguments = group_norm_arguments(case, affine=affine, residual=residual)
    tangents = {n: random(np.random.default_rng(5), t.shape) for n, t in arguments.items()}
    products, ahead = [], []
    for with_y in (True, False):
        step = functools.partial(training_step, case, activation, with_y)
        rng = np.random.default_rng(3)
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = step(**arguments)
            total = sum(tf.reduce_sum(random(rng, t.shape) * t) for t in outputs)
        products.append([outputs, tape.gradient(total, arguments, unconnected_gradients="zero")])
        # After many shapes TensorFlow traces for a gamma of any rank, which stock ops do not take.
        if affine != "per_sample":
            ahead.append(jvp(step, arguments, tangents))
    for pair in filter(None, (products, ahead)):
        assert_all_close(*pair, rtol=1e-6)  # epsilon is a float32


def test_a_bias_before_and_a_transposed_convolution_behind():
    """TensorFlow's oneDNN pass once took them for those of one convolution.

    It pairs a BiasAddGrad and a Conv2DBackpropFilter that read the same node, whatever its outputs.
    """
    case = cases.GroupNormCase((2, 5, 6, 8), -1, 2)
    x, gamma, beta, _ = make_arguments(case, "float32").values()
    dy = random(np.random.default_rng(1), case.shape, "float32")
    d_outputs = random(np.random.default_rng(2), (2, 10, 12, 4), "float32")

    def gradients(x, gamma, beta, dy, d_outputs):
        _, *saved = forward(case, "relu", x, gamma, beta, None)
        dx, *_, y = gradient(case, "relu", saved, dy, x, gamma, beta, None)
        d_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=d_outputs,
            filter_sizes=[3, 3, 4, 8],
            out_backprop=y,
            strides=[1, 2, 2, 1],
            padding="SAME",
        )
        return tf.raw_ops.BiasAddGrad(out_backprop=dx), d_kernel

    arguments = (x, gamma, beta, dy, d_outputs)
    actual, expected = call("graph", gradients, *arguments), gradients(*arguments)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
