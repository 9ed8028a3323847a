"""Extreme group and channel counts, sizes and magnitudes.

`heavy/test_huge_tensors.py` has tensors of more than 2^31 elements.
"""

import cases
import numpy as np
import pytest
import reference
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from group_norm_checks import check
from parameters import named


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("case", named(cases.group_norms("extreme")))
def test_shapes(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("axis", [-1, 1])
def test_one_element_groups_give_beta_and_no_gradient(axis):
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 50)).astype("float32"))
    beta = tf.range(50.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tfgn.group_norm(x, beta=beta, groups=50, axis=axis)
    np.testing.assert_array_equal(y, np.broadcast_to(beta, (3, 50)))
    # rstd * (dy - dy), with rstd = 1 / sqrt(1e-3), to the last bits of dy.
    dx = tape.gradient(y, x, tf.ones_like(x) * 1e3)
    np.testing.assert_allclose(dx, np.zeros((3, 50)), atol=1e3 * 1e-3**-0.5 * 2.0**-23)


# The largest for which the sums of squares and the rstd^3 of the gradient are in range. The sums of
# float32 are float64.
MAGNITUDES = {"float16": 6e4, "bfloat16": 1e16, "float32": 1e16, "float64": 1e100}


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("dtype", MAGNITUDES)
def test_magnitudes(dtype, axis):
    """y does not depend on the scale of x if epsilon is negligible beside the variance."""
    rng = np.random.default_rng(0)
    case = cases.GroupNormCase((2, 24, 30, 24), axis, 4)
    x = tf.cast(rng.uniform(-1, 1, case.shape) * MAGNITUDES[dtype], dtype)
    dy = tf.cast(rng.normal(size=case.shape), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tfgn.group_norm(x, groups=4, axis=axis)
    dx = tape.gradient(y, x, dy)
    expected = reference.group_norm(x, None, None, None, groups=4, axis=axis, dy=dy)
    offset = (np.abs(expected.mean) * expected.rstd).max()
    reference.assert_values(y, expected.y, dtype, offset=offset, scale=1.0)
    if dtype == "float16":  # The gradients are far below the smallest float16.
        np.testing.assert_allclose(dx, expected.gradients["x"], atol=2.0**-24)
    else:
        reference.assert_gradient(dx, expected.gradients["x"], dtype, offset=offset)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mean_of_a_million(dtype, axis):
    rng = np.random.default_rng(0)
    x = tf.cast(rng.normal(1e6, 1, (2, 24, 30, 24)), dtype)
    y, mean, _, _ = tfgn.raw_ops.GroupNorm(
        x=x,
        gamma=tf.zeros([0], dtype),
        beta=tf.zeros([0], dtype),
        side_input=[],
        groups=4,
        axis=axis,
    )
    expected = reference.group_norm(x, None, None, None, groups=4, axis=axis)
    offset = (np.abs(expected.mean) * expected.rstd).max()
    assert 0.9e6 < offset < 1.1e6
    reference.assert_values(y, expected.y, dtype, offset=offset, scale=1.0)
    np.testing.assert_allclose(mean, expected.mean, rtol=2.0**-22)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_subnormal_numbers_are_numbers_or_0(dtype):
    """TensorFlow's threads flush subnormal numbers to 0; float16's are normal in float32."""
    least = {
        "float16": 2.0**-15,
        "bfloat16": 2.0**-127,
        "float32": 2.0**-127,
        "float64": 2.0**-1023,
    }
    x = tf.cast(np.random.default_rng(0).choice([-1, 1], (2, 5, 8)) * least[dtype], dtype)
    y = tfgn.group_norm(x, groups=2, epsilon=1e-3)
    expected = reference.group_norm(x, None, None, None, groups=2).y
    if dtype == "float16":
        reference.assert_values(y, expected, dtype, offset=1.0, scale=1.0)
    else:
        np.testing.assert_allclose(y, np.zeros(x.shape), atol=1e-30)


def test_kernel_of_one_weight_per_output_and_of_one_output():
    for shape, axis in (((1, 1, 1, 100_000), -1), ((100, 1000, 1), -1)):
        w = tf.constant(np.random.default_rng(0).normal(size=shape).astype("float32"))
        w_hat = tfgn.standardize_weights(w, axis=axis)
        expected = reference.standardize_weights(w, None, axis=(axis,), epsilon=1e-10)
        reference.assert_values(w_hat, expected.y, "float32", offset=1.0, scale=1.0)
