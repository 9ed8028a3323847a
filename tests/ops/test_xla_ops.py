"""The ops under `jit_compile=True`: the same bits as without, and nothing decomposed."""

import concurrent.futures
import functools
import re

import cases
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from cases import parameter_dtype
from group_norm_checks import make_arguments
from parameters import named
from standardize_weights_checks import TYPE_PAIRS
from standardize_weights_checks import make_arguments as make_kernel
from tensors import random

# Some of each: vector tails, shared among threads, without elements.
GROUP_NORM = cases.GROUP_NORM | {
    name: (cases.VECTOR_EDGES | cases.LARGE)[name]
    for name in ("last_c33_g1", "first_b65", "large_image_last", "many_samples")
}
TARGET = 'custom_call_target="tfgn.{}"'


def jit(function, **options):
    return tf.function(function, jit_compile=True, autograph=False, **options)


def assert_same_bits(actual, expected):
    actual, expected = tf.nest.flatten(actual), tf.nest.flatten(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.numpy().tobytes() == b.numpy().tobytes()


def group_norm(x, gamma, beta, side, dy, *, groups, axis=-1, activation="linear"):
    """All outputs of GroupNorm and of its gradient."""
    absent = tf.zeros([0], parameter_dtype(x.dtype.name))
    attrs = {"groups": groups, "axis": axis, "activation": activation}
    inputs = {
        "x": x,
        "gamma": absent if gamma is None else gamma,
        "beta": absent if beta is None else beta,
        "side_input": [] if side is None else [side],
    }
    y, mean, rstd, rest = tfgn.raw_ops.GroupNorm(**inputs, **attrs, with_rest=1)
    saved = {"mean": mean, "rstd": rstd}
    return (
        y,
        saved,
        rest,
        tfgn.raw_ops.GroupNormGrad(dy=dy, **saved, rest=[], **inputs, **attrs),
        tfgn.raw_ops.GroupNormGrad(dy=dy, **saved, rest=rest, with_y=1, **inputs, **attrs),
    )


def check(case, dtype="float32", activation="linear", **options):
    dy = random(np.random.default_rng(1), case.shape, dtype)
    arguments = (*make_arguments(case, dtype, **options).values(), dy)
    compute = functools.partial(
        group_norm, groups=case.groups, axis=case.axis, activation=activation
    )
    assert_same_bits(jit(compute)(*arguments), compute(*arguments))


@pytest.mark.parametrize("case", named(GROUP_NORM | cases.EMPTY))
def test_group_norm(case):
    check(case)


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
def test_types_and_fusions(dtype, activation, residual):
    check(cases.GROUP_NORM["image_last"], dtype, activation, residual=residual)


@pytest.mark.parametrize("affine", ["absent", "per_sample"])
def test_parameters(affine):
    check(cases.GROUP_NORM["image_middle"], affine=affine, activation="relu", residual=True)


def standardize(w, gain, dw_hat, **attrs):
    """All outputs of StandardizeWeights and of its gradient."""
    gain = tf.zeros([0], parameter_dtype(w.dtype.name)) if gain is None else gain
    w_hat, mean, rstd = tfgn.raw_ops.StandardizeWeights(w=w, gain=gain, Tout=dw_hat.dtype, **attrs)
    return (
        w_hat,
        mean,
        rstd,
        *tfgn.raw_ops.StandardizeWeightsGrad(
            dw_hat=dw_hat, w=w, gain=gain, mean=mean, rstd=rstd, **attrs
        ),
    )


def check_kernel(case, dtype="float32", dtype_out="float32", gain=True, **attrs):
    dw_hat = random(np.random.default_rng(1), case.shape, dtype_out)
    arguments = (*make_kernel(case, dtype, gain=gain).values(), dw_hat)
    compute = functools.partial(standardize, axis=list(case.axis), **attrs)
    assert_same_bits(jit(compute)(*arguments), compute(*arguments))


@pytest.mark.parametrize("case", named(cases.KERNELS | cases.EMPTY_KERNELS))
def test_standardize_weights(case):
    check_kernel(case)


@pytest.mark.parametrize("dtype, dtype_out", TYPE_PAIRS)
def test_types_of_kernels(dtype, dtype_out):
    check_kernel(cases.KERNELS["conv2d_odd"], dtype, dtype_out, gain=False)


@pytest.mark.parametrize("mode", cases.EPSILON_MODES)
def test_attributes_arrive_as_they_are(mode):
    # 0.1 and 1e-7 are not exact in float32.
    check_kernel(cases.KERNELS["conv2d"], epsilon_mode=mode, epsilon=1e-7, ddof=1, scale=0.1)


def test_gradients_through_the_functions():
    x, shortcut = tf.random.normal([2, 6, 6, 8]), tf.random.normal([2, 6, 6, 8])
    kernel, gamma = tf.random.normal([3, 3, 8, 8]), tf.random.normal([8])

    def gradients(x, kernel, gamma, shortcut):
        with tf.GradientTape() as outer:
            outer.watch([x, kernel, gamma, shortcut])
            with tf.GradientTape() as inner:
                inner.watch([x, kernel])
                w = tfgn.standardize_weights(kernel, variant="qiao")
                y = tf.nn.conv2d(x, w, 1, "SAME")
                y = tfgn.group_norm(y, gamma, None, 2, activation="silu", residual=shortcut)
                loss = tf.reduce_sum(y**3)
            first = inner.gradient(loss, [x, kernel])
            penalty = sum(tf.reduce_sum(g**2) for g in first)
        return first, outer.gradient(penalty, [x, kernel, gamma, shortcut])

    arguments = (x, kernel, gamma, shortcut)
    actual, expected = jit(gradients)(*arguments), gradients(*arguments)
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * scale)


def optimized_hlo(function, *arguments):
    return jit(function).experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")


def ops_of(hlo):
    """The opcodes of the instructions of all computations."""
    return set(re.findall(r"^\s*(?:ROOT )?%\S+ = .*? ([a-z][\w-]*)\(", hlo, re.M))


def value_and_gradient(norm):
    def compute(x, gamma, beta, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y = norm(x, gamma, beta)
        return y, tape.gradient(y, [x, gamma, beta], dy)

    return compute


def test_nothing_is_decomposed():
    arguments = [tf.ones(shape) for shape in ([2, 6, 6, 8], [8], [8], [2, 6, 6, 8])]
    hlo = optimized_hlo(value_and_gradient(lambda *a: tfgn.group_norm(*a, 2)), *arguments)
    assert hlo.count(TARGET.format("GroupNorm")) == 1
    assert hlo.count(TARGET.format("GroupNormGrad")) == 1
    assert ops_of(hlo) <= {"parameter", "custom-call", "get-tuple-element", "tuple", "constant"}
    # What the same looks like without the ops.
    stock = optimized_hlo(value_and_gradient(lambda *a: tfgn.stock.group_norm(*a, 2)), *arguments)
    assert "custom_call_target" not in stock
    assert "reduce" in ops_of(stock)


def test_no_standardization_is_decomposed():
    w = tf.ones([3, 3, 4, 8])
    hlo = optimized_hlo(lambda w: tfgn.standardize_weights(w, dtype="bfloat16"), w)
    assert hlo.count(TARGET.format("StandardizeWeights")) == 1
    assert ops_of(hlo) <= {"parameter", "custom-call", "get-tuple-element", "tuple", "constant"}


def test_what_nobody_needs_is_not_computed():
    arguments = [tf.ones(shape) for shape in ([2, 6, 6, 8], [8], [8], [2, 6, 6, 8])]
    compute = value_and_gradient(lambda *a: tfgn.group_norm(*a, 2))
    # A gradient that is not returned, and a second call with the same inputs.
    hlo = optimized_hlo(lambda *a: compute(*a)[0] + tfgn.group_norm(*a[:3], 2), *arguments)
    assert hlo.count(TARGET.format("GroupNorm")) == 1
    assert TARGET.format("GroupNormGrad") not in hlo


def test_a_batch_of_unknown_size_compiles_for_each():
    signature = [tf.TensorSpec([None, None, 8])]
    compute = jit(lambda x: tfgn.group_norm(x, groups=2), input_signature=signature)
    for shape in ([3, 5, 8], [1, 5, 8], [3, 2, 8], [0, 2, 8]):
        x = tf.random.normal(shape)
        assert_same_bits(compute(x), tfgn.group_norm(x, groups=2))


@pytest.mark.parametrize("keep", ["00000", "00100", "10110", "11111"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["per_channel", "per_sample"])
def test_a_batch_of_bounded_dynamic_size(keep, per_sample):
    keep = tf.constant([digit == "1" for digit in keep])
    # The ops must not read the samples that are not kept.
    x, side, dy = (
        tf.where(keep[:, None, None], tf.random.normal([5, 6, 8]), np.nan) for _ in range(3)
    )
    gamma = tf.random.normal([5, 8] if per_sample else [8])

    def masked(x, gamma, side, dy, keep):
        x, side, dy = (tf.boolean_mask(t, keep) for t in (x, side, dy))
        gamma = tf.boolean_mask(gamma, keep) if per_sample else gamma
        return group_norm(x, gamma, None, side, dy, groups=2, activation="relu")

    expected = masked(x, gamma, side, dy, keep)
    assert all(np.isfinite(t).all() for t in tf.nest.flatten(expected))
    assert_same_bits(jit(masked)(x, gamma, side, dy, keep), expected)


def test_another_dynamic_axis_is_named():
    keep = tf.constant([True, False, True, False, True])
    compute = jit(lambda x, keep: tfgn.group_norm(tf.boolean_mask(x, keep, axis=1), groups=2))
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        compute(tf.ones([2, 5, 8]), keep)
    for part in ("GroupNorm compiles under XLA for", "input 0", "axis 1", "run time"):
        assert part in str(error.value)


def test_a_kernel_of_dynamic_shape_is_refused():
    keep = tf.constant([True, False, True])
    raw = functools.partial(tfgn.raw_ops.StandardizeWeights, gain=tf.zeros([0]), Tout=tf.float32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="StandardizeWeights compiles under"):
        jit(lambda w, keep: raw(w=tf.boolean_mask(w, keep)))(tf.ones([3, 8]), keep)


def test_inside_a_loop_and_a_branch():
    @jit
    def compute(x, n):
        y = tf.while_loop(
            lambda i, _: i < n, lambda i, y: (i + 1, tfgn.group_norm(y, groups=2) + 0.5), (0, x)
        )[1]
        return tf.cond(n > 2, lambda: tfgn.group_norm(y, groups=4), lambda: y)

    x = tf.random.normal([2, 7, 8])
    for n in (0, 3):
        expected = x
        for _ in range(n):
            expected = tfgn.group_norm(expected, groups=2) + 0.5
        expected = tfgn.group_norm(expected, groups=4) if n > 2 else expected
        assert_same_bits(compute(x, tf.constant(n)), expected)


def test_calls_from_several_threads():
    x = tf.random.normal([4, 56, 56, 64])  # large enough to be shared among the pool's threads
    compute = jit(lambda x: tfgn.group_norm(x, groups=32))
    expected = compute(x)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for y in pool.map(compute, [x] * 40):
            assert_same_bits(y, expected)
