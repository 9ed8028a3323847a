"""Derivatives of higher order, forward mode, and the transformations that TensorFlow offers."""

import cases
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from parameters import named
from tensorflow.python.eager import forwardprop
from tensors import random

# Exact in float32, the type of the op's attribute.
EPSILON = 2.0**-7

SMALL = cases.group_norms("small")
SMALL_KERNELS = cases.kernels("small_kernels")


def group_norm_arguments(case, *, affine="per_channel", residual=True, dtype="float64"):
    """The tensors that are there, by their names in `group_norm`."""
    rng = np.random.default_rng(0)
    channels = case.shape[case.axis]
    arguments = {"x": random(rng, case.shape, dtype)}
    if affine != "absent":
        shape = [case.shape[0], channels] if affine == "per_sample" else [channels]
        arguments |= {name: 1 + random(rng, shape, dtype) for name in ("gamma", "beta")}
    if residual:
        arguments["residual"] = random(rng, case.shape, dtype)
    return arguments


def kernel_arguments(case, gain=True, dtype="float64"):
    rng = np.random.default_rng(0)
    arguments = {"w": random(rng, case.shape, dtype)}
    if gain:
        arguments["gain"] = 1 + random(rng, [np.prod([case.shape[i] for i in case.axis])], dtype)
    return arguments


def gradients_by_order(function, arguments, order):
    """The gradients of orders 1 to `order` of randomly weighted sums of the outputs."""
    rng = np.random.default_rng(1)
    if order == 0:
        return function(**arguments), []
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value, lower = gradients_by_order(function, arguments, order - 1)
        total = sum(
            tf.reduce_sum(random(rng, t.shape, t.dtype) * t) for t in tf.nest.flatten(value)
        )
    gradients = tape.gradient(total, arguments, unconnected_gradients="zero")
    return gradients, [*lower, gradients]


def assert_all_close(actual, expected, rtol):
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = np.abs(b).max(initial=1e-3)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("affine", ["absent", "per_channel", "per_sample"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("case", named(SMALL))
def test_second_order_of_group_norm(case, activation, residual, affine):
    arguments = group_norm_arguments(case, affine=affine, residual=residual)
    attrs = {"groups": case.groups, "axis": case.axis, "epsilon": EPSILON}
    fused, stock = (
        gradients_by_order(
            lambda f=f, **tensors: f(**tensors, **attrs, activation=activation), arguments, 2
        )
        for f in (tfgn.group_norm, tfgn.stock.group_norm)
    )
    assert_all_close(fused, stock, rtol=1e-9)


@pytest.mark.parametrize("gain", [False, True], ids=["", "gain"])
@pytest.mark.parametrize("variant", ["bit", "qiao", "qiao_tf", "nfnet", "timm_scaled"])
@pytest.mark.parametrize("case", named(SMALL_KERNELS))
def test_second_order_of_standardize_weights(case, variant, gain):
    arguments = kernel_arguments(case, gain)
    attrs = {"axis": case.axis, "variant": variant}
    fused, stock = (
        gradients_by_order(lambda f=f, **tensors: f(**tensors, **attrs), arguments, 2)
        for f in (tfgn.standardize_weights, tfgn.stock.standardize_weights)
    )
    assert_all_close(fused, stock, rtol=1e-6)  # of the float32 attributes


def test_third_order():
    case = SMALL["image_last"]
    attrs = {"groups": case.groups, "epsilon": EPSILON, "activation": "silu"}
    fused, stock = (
        gradients_by_order(
            lambda f=f, **tensors: f(**tensors, **attrs), group_norm_arguments(case), 3
        )
        for f in (tfgn.group_norm, tfgn.stock.group_norm)
    )
    assert_all_close(fused, stock, rtol=1e-9)
    kernel = kernel_arguments(SMALL_KERNELS["conv2d"])
    fused, stock = (
        gradients_by_order(f, kernel, 3)[1]
        for f in (tfgn.standardize_weights, tfgn.stock.standardize_weights)
    )
    assert_all_close(fused, stock, rtol=1e-6)


def test_arguments_that_are_the_same_tensor():
    x = group_norm_arguments(SMALL["image_last"])["x"]
    attrs = {"groups": 3, "epsilon": EPSILON, "activation": "silu"}
    fused, stock = (
        gradients_by_order(
            lambda x, f=f: f(x, x[0, 0, 0], x[0, 0, 0], residual=x, **attrs), {"x": x}, 2
        )
        for f in (tfgn.group_norm, tfgn.stock.group_norm)
    )
    assert_all_close(fused, stock, rtol=1e-9)


def test_gradients_of_some_arguments_only():
    x, gamma, beta, residual = group_norm_arguments(SMALL["image_last"]).values()
    for source in (x, gamma, beta, residual):
        with tf.GradientTape() as tape:
            tape.watch(source)
            y = tfgn.group_norm(x, gamma, beta, 3, residual=residual)
        assert tape.gradient(y, source).shape == source.shape


def test_no_gradient_flows_from_the_statistics():
    x, gamma, beta, _ = group_norm_arguments(SMALL["image_last"]).values()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        _, mean, rstd, (rest,) = tfgn.raw_ops.GroupNorm(
            x=x, gamma=gamma, beta=beta, side_input=[], groups=3, with_rest=1
        )
    for statistic in (mean, rstd, rest):
        np.testing.assert_array_equal(tape.gradient(statistic, x), tf.zeros_like(x))


def test_a_sparse_gradient_of_the_output():
    x = group_norm_arguments(SMALL["image_last"])["x"]

    def gradient(select):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = select(tfgn.group_norm(x, groups=3)[0])
        return tape.gradient(y, x)

    np.testing.assert_array_equal(
        gradient(lambda y: tf.gather(y, [2, 0])), gradient(lambda y: y[::-2])
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "function, make_arguments, case",
    [
        (lambda **a: tfgn.group_norm(**a, groups=3), group_norm_arguments, SMALL["image_last"]),
        (tfgn.standardize_weights, kernel_arguments, SMALL_KERNELS["conv2d"]),
    ],
    ids=["group_norm", "standardize_weights"],
)
def test_second_order_in_low_precision(function, make_arguments, case, dtype):
    arguments = make_arguments(case, dtype=dtype)
    exact = {name: tf.cast(t, "float64") for name, t in arguments.items()}
    low, high = (gradients_by_order(function, a, 2)[0] for a in (arguments, exact))
    for name, gradient in low.items():
        assert gradient.dtype == arguments[name].dtype
        error = np.linalg.norm(np.subtract(tf.cast(gradient, "float64"), high[name]))
        assert error <= 2.0**-5 * np.linalg.norm(high[name])


def jvp(function, arguments, tangents):
    names = list(arguments)
    with tf.autodiff.ForwardAccumulator(
        [arguments[n] for n in names], [tangents[n] for n in names]
    ) as accumulator:
        y = function(**arguments)
    return accumulator.jvp(y)


def check_forward_mode(function, arguments):
    """Of the function and of its gradient: against central differences and the reverse mode."""
    rng = np.random.default_rng(3)
    tangents = {name: random(rng, t.shape) for name, t in arguments.items()}

    def gradient(**arguments):
        return gradients_by_order(function, arguments, 1)[0]

    for f in (function, gradient):
        ahead, behind = (
            f(**{name: t + h * tangents[name] for name, t in arguments.items()})
            for h in (1e-5, -1e-5)
        )
        difference = tf.nest.map_structure(lambda a, b: (a - b) / 2e-5, ahead, behind)
        assert_all_close(jvp(f, arguments, tangents), difference, rtol=1e-6)

    # The Hessian is symmetric.
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        g = gradient(**arguments)
        product = sum(tf.reduce_sum(g[name] * tangents[name]) for name in arguments)
    expected = tape.gradient(product, arguments)
    assert_all_close(jvp(gradient, arguments, tangents), expected, rtol=1e-8)


@pytest.mark.parametrize("case", named(SMALL))
def test_forward_mode_of_group_norm(case):
    check_forward_mode(
        lambda **tensors: tfgn.group_norm(
            **tensors, groups=case.groups, axis=case.axis, activation="silu"
        ),
        group_norm_arguments(case),
    )


@pytest.mark.parametrize("variant", ["bit", "qiao", "nfnet"])
def test_forward_mode_of_standardize_weights(variant):
    check_forward_mode(
        lambda **tensors: tfgn.standardize_weights(**tensors, variant=variant),
        kernel_arguments(SMALL_KERNELS["conv2d"]),
    )


@pytest.mark.parametrize(
    "fused, stock, attrs",
    [
        (tfgn.group_norm, tfgn.stock.group_norm, {"groups": 2}),
        (tfgn.standardize_weights, tfgn.stock.standardize_weights, {"variant": "qiao"}),
    ],
    ids=["group_norm", "standardize_weights"],
)
def test_forward_mode_of_an_unknown_rank(fused, stock, attrs, monkeypatch):
    """TensorFlow traces the forward mode of an op for every shape, of an unknown one after 32."""
    monkeypatch.setattr(forwardprop, "_TRACE_COUNT_LIMIT", 0)
    for shape in ((2, 3, 4), (2, 5, 4), (2, 3, 5, 4), (3, 6), (3, 2, 3, 4)):
        rng = np.random.default_rng(0)
        tensors = [random(rng, s) for s in (shape, shape[-1:])]
        tangents = [random(rng, t.shape) for t in tensors]
        jvps = []
        for f in (fused, stock):
            with tf.autodiff.ForwardAccumulator(tensors, tangents) as accumulator:
                y = f(*tensors, axis=-1, epsilon=EPSILON, **attrs)
            jvps.append(accumulator.jvp(y))
        assert_all_close(*jvps, rtol=1e-9)


MODELS = {
    "group_norm": (
        lambda x: tfgn.group_norm(x, groups=2, activation="silu", residual=x),
        lambda x: tfgn.stock.group_norm(x, groups=2, activation="silu", residual=x),
    ),
    "standardize_weights": (
        lambda x: tfgn.standardize_weights(x),
        lambda x: tfgn.stock.standardize_weights(x),
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    """The fused function of one tensor, and the same in stock ops."""
    return MODELS[request.param]


@pytest.fixture
def x():
    return random(np.random.default_rng(0), (5, 2, 3, 4), "float32")


def value_and_gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        loss = tf.reduce_sum(y * tf.sin(y))
    return y, tape.gradient(loss, x)


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(lambda f: lambda x: tf.map_fn(f, x), id="map_fn"),
        pytest.param(lambda f: lambda x: tf.vectorized_map(f, x), id="vectorized_map"),
        pytest.param(tf.recompute_grad, id="recompute_grad"),
        pytest.param(
            lambda f: (
                lambda x: tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, f(y)), (0, x))[1]
            ),
            id="while_loop",
        ),
        pytest.param(
            lambda f: lambda x: tf.cond(tf.reduce_sum(x) < 1e9, lambda: f(x), lambda: x), id="cond"
        ),
    ],
)
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "function"])
def test_transformations(transform, traced, model, x):
    fused, stock = (
        value_and_gradient(tf.function(transform(f)) if traced else transform(f), x) for f in model
    )
    assert_all_close(fused, stock, rtol=1e-5)


def test_a_traced_training_step(model, x):
    fused, stock = (tf.function(lambda x, f=f: value_and_gradient(f, x))(x) for f in model)
    assert_all_close(fused, stock, rtol=1e-5)


def test_the_jacobian(model):
    x = random(np.random.default_rng(0), (2, 3, 4))

    def jacobian(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.jacobian(y, x)

    fused, stock = (jacobian(f) for f in model)
    assert_all_close(fused, stock, rtol=1e-6)


def test_gradients_in_a_graph_and_session(model, x):
    fused, stock = model
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        y = fused(tf.constant(x.numpy()))
        (first,) = tf.gradients(tf.sin(y), y.op.inputs[0])
        (second,) = tf.gradients(tf.sin(first), y.op.inputs[0])
        actual = session.run([y, first, second])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = stock(x)
            z = tf.sin(y)
        first = inner.gradient(z, x)
        z = tf.sin(first)
    expected = [y, first, outer.gradient(z, x)]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
