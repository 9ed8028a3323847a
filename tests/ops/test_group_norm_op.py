"""GroupNorm and its gradient against the float64 reference: every type, rank, axis and option."""

import functools

import cases
import numpy as np
import pytest
import reference
import strategies
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from group_norm_checks import (
    EPSILON,
    assert_gradients,
    assert_values,
    broadcast,
    check,
    expect,
    make_arguments,
    run,
)
from hypothesis import given
from parameters import named
from tensors import random

ALL = cases.GROUP_NORM | cases.VECTOR_EDGES


@pytest.mark.parametrize("affine", ["absent", "per_channel", "per_sample"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize("case", named(cases.GROUP_NORM))
def test_values_and_gradients(case, dtype, activation, residual, affine):
    check(case, dtype, activation, residual=residual, affine=affine)


@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize("case", named(cases.VECTOR_EDGES))
def test_lengths_around_the_vector_width(case, dtype):
    check(case, dtype, "silu", residual=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", named(cases.LARGE))
def test_large_tensors(case, dtype):
    check(case, dtype, "silu", residual=True, mean=0.5)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@given(case=strategies.group_norms())
def test_random_shapes(dtype, case):
    # Of few channels the gradients of gamma and beta are few numbers, whose terms may cancel.
    affine = "absent" if case.shape[case.axis] < 4 else "per_channel"
    # Where float32 sums some 64 rows, one value in millions comes close to the bound.
    check(case, dtype, "silu", slack=1.25, affine=affine, residual=True, mean=0.5)


# Rounding decides the sign of the argument of a ReLU near 0. With a large mean many arguments are
# that near, so that no bound holds for the gradient.
@pytest.mark.parametrize("activation", ["linear", "silu"])
@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4])
@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize(
    "name", ["dense", "image_last", "image_first", "image_middle", "image_batch1", "layer_norm"]
)
def test_a_mean_far_from_zero(name, dtype, mean, activation):
    check(cases.GROUP_NORM[name], dtype, activation, mean=mean)


@pytest.mark.parametrize("name", ["large_image_last", "large_image_first", "wide_groups"])
def test_a_large_image_far_from_zero(name):
    check(cases.LARGE[name], "float32", mean=1e4)


@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize("gamma, beta", [("absent", "per_sample"), ("per_sample", "per_channel")])
def test_gamma_and_beta_need_not_be_alike(dtype, gamma, beta):
    case = cases.GROUP_NORM["image_first"]
    arguments = make_arguments(case, dtype, affine=beta)
    arguments["gamma"] = make_arguments(case, dtype, affine=gamma)["gamma"]
    dy = random(np.random.default_rng(1), case.shape, dtype)
    y, _, _, gradients = run(case, arguments, "relu", dy)
    expected = expect(case, arguments, "relu", dy)
    assert_values(case, arguments, y, expected)
    assert_gradients(arguments, gradients, expected)


@pytest.mark.parametrize("case", named(cases.EMPTY))
@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize("affine", ["absent", "per_channel", "per_sample"])
def test_empty_tensors(case, dtype, affine):
    arguments = make_arguments(case, dtype, affine=affine, residual=True)
    y, mean, rstd, gradients = run(case, arguments, "relu", tf.zeros(case.shape, dtype))
    assert y.shape == case.shape
    assert mean.shape == rstd.shape == (case.shape[0], case.groups)
    np.testing.assert_array_equal(mean, np.zeros_like(mean))
    np.testing.assert_allclose(rstd, np.full(rstd.shape, np.float32(EPSILON) ** -0.5), rtol=1e-6)
    for name, gradient in gradients.items():
        if gradient is not None:  # gamma and beta of no channels are [0]: absent
            np.testing.assert_array_equal(gradient, np.zeros(arguments[name].shape))


@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize("layout", ["image_last", "image_first"])
def test_a_constant_has_no_deviation(layout, dtype):
    case = cases.GROUP_NORM[layout]
    arguments = make_arguments(case, dtype) | {"x": tf.fill(case.shape, tf.constant(3.0, dtype))}
    y, mean, rstd, _ = run(case, arguments)
    beta = broadcast(arguments["beta"], case).astype(float)
    np.testing.assert_array_equal(y, tf.broadcast_to(tf.cast(beta, dtype), case.shape))
    np.testing.assert_array_equal(mean, np.full(mean.shape, 3.0))
    np.testing.assert_allclose(rstd, np.full(rstd.shape, np.float32(EPSILON) ** -0.5), rtol=1e-6)


@pytest.mark.parametrize("layout", ["image_last", "image_first"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_squares_beyond_the_range_of_the_type(layout, dtype):
    case = cases.GROUP_NORM[layout]
    std = 1e4 if dtype == "float16" else 1e17
    arguments = make_arguments(case, dtype)
    arguments["x"] *= tf.cast(std, dtype)
    dy = random(np.random.default_rng(1), case.shape, dtype)
    y, _, _, gradients = run(case, arguments, "linear", dy)
    expected = expect(case, arguments, "linear", dy)
    assert_values(case, arguments, y, expected)
    for name in ("gamma", "beta"):
        reference.assert_gradient(gradients[name], expected.gradients[name], "float32", offset=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", ["image_last", "image_first"])
def test_a_bad_value_stays_in_its_group(layout, bad):
    case = cases.GROUP_NORM[layout]
    arguments = make_arguments(case, "float32", affine="absent")
    clean = run(case, arguments)[0].numpy()
    x = arguments["x"].numpy()
    x[0, 0, 0, 0] = bad
    y = run(case, arguments | {"x": tf.constant(x)})[0].numpy()
    rows, clean_rows = (
        np.moveaxis(t, case.axis, 1).reshape(case.shape[0] * case.groups, -1) for t in (y, clean)
    )
    assert np.isnan(rows[0]).all()
    np.testing.assert_array_equal(rows[1:], clean_rows[1:])


@pytest.mark.parametrize("reusable", ["x dy side", "x dy", "side dy", "x side", "side"])
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("layout", ["image_last", "image_first", "image_middle"])
def test_buffers_reused_in_a_graph(layout, activation, reusable):
    """In a graph, an op may write its outputs into inputs that are not read again."""
    case = cases.GROUP_NORM[layout]
    arguments = make_arguments(case, "float32", residual=True)
    x, gamma, beta, side = arguments.values()
    dy = random(np.random.default_rng(1), case.shape, "float32")
    y, mean, rstd, _ = run(case, arguments, activation)
    rest = [tf.random.stateless_normal([case.shape[0], 2, case.groups], (1, 2), 0, 1e-6)]
    attrs = {"groups": case.groups, "axis": case.axis, "activation": activation}

    def forward(dy, x, side):
        return tfgn.raw_ops.GroupNorm(
            x=x, gamma=gamma, beta=beta, side_input=[side], epsilon=EPSILON, **attrs
        ).y

    def backward(dy, x, side, with_side=True, with_y=False):
        return tfgn.raw_ops.GroupNormGrad(
            dy=dy,
            x=x,
            gamma=gamma,
            beta=beta,
            mean=mean,
            rstd=rstd,
            side_input=[side] if with_side else [],
            rest=rest,
            with_y=int(with_y),
            **attrs,
        )

    # A graph can reuse the outputs of its ops, but not its own inputs.
    inputs = {"dy": dy, "x": x, "side": side}
    negated = {name: -t if name in reusable.split() else t for name, t in inputs.items()}
    of_gradient = [
        functools.partial(backward, with_side=with_side, with_y=with_y)
        for with_side in (False, True)
        for with_y in (False, True)
    ]
    for function in (forward, *of_gradient):

        @tf.function(autograph=False)
        def graph(function=function, **inputs):
            return function(**{n: -t if n in reusable.split() else t for n, t in inputs.items()})

        tf.nest.map_structure(np.testing.assert_array_equal, graph(**negated), function(**inputs))
    np.testing.assert_array_equal(forward(**inputs), y)


def test_the_function_is_the_op():
    case = cases.GROUP_NORM["image_middle"]
    arguments = make_arguments(case, "float32", residual=True)
    np.testing.assert_array_equal(
        tfgn.group_norm(
            arguments["x"],
            arguments["gamma"],
            arguments["beta"],
            case.groups,
            axis=case.axis,
            epsilon=EPSILON,
            activation="silu",
            residual=arguments["side"],
        ),
        run(case, arguments, "silu")[0],
    )


def test_the_function_converts_its_arguments():
    x = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4) ** 0.5
    plain = tfgn.group_norm(x, groups=2, epsilon=np.float64(EPSILON))
    lists = tfgn.group_norm(x.tolist(), [1, 1, 1, 1], np.zeros(4), 2, residual=np.zeros_like(x))
    variable = tfgn.group_norm(tf.Variable(x), tf.Variable([1.0] * 4, dtype=tf.float16), groups=2)
    np.testing.assert_array_equal(plain, lists)
    np.testing.assert_array_equal(plain, variable)


def test_raw_ops_are_keyword_only():
    assert {"GroupNorm", "GroupNormGrad"} <= set(dir(tfgn.raw_ops))
    with pytest.raises(TypeError):
        tfgn.raw_ops.GroupNorm(tf.zeros([1, 2]), tf.zeros([2]), tf.zeros([2]), [], 1)
    with pytest.raises(AttributeError, match="no BatchNorm"):
        _ = tfgn.raw_ops.BatchNorm


def test_without_the_op_library(monkeypatch):
    monkeypatch.setattr(tfgn.ops, "_OPS", None)
    monkeypatch.setattr(tfgn.ops._library, "load_error", lambda: "the reason")
    with pytest.raises(ImportError, match="the reason"):
        tfgn.raw_ops.GroupNorm(x=0)
    x = random(np.random.default_rng(0), (2, 3, 4), "float32")
    options = {"gamma": x[0, 0], "beta": x[0, 1], "groups": 2, "activation": "silu", "residual": x}
    np.testing.assert_array_equal(
        tfgn.group_norm(x, **options), tfgn.stock.group_norm(x, **options)
    )
    options = {"gain": x[0, 0], "variant": "nfnet", "axis": [2], "dtype": "float16"}
    np.testing.assert_array_equal(
        tfgn.standardize_weights(x, **options), tfgn.stock.standardize_weights(x, **options)
    )
