"""StandardizeWeights and its gradient against the float64 reference: every form and layout."""

import cases
import numpy as np
import pytest
import reference
import strategies
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from hypothesis import given
from parameters import named
from standardize_weights_checks import (
    TYPE_PAIRS,
    check,
    make_arguments,
    outputs,
    per_output,
    run,
)

# The published definitions: population variance, fan-in -> factor of (w - mean).
# https://github.com/google-research/big_transfer,
# https://github.com/huggingface/pytorch-image-models (std_conv.py),
# https://github.com/joe-siyuan-qiao/WeightStandardization,
# https://github.com/google-deepmind/deepmind-research (nfnets/base.py).
PUBLISHED = {
    "bit": lambda var, n: 1 / np.sqrt(var + 1e-10),
    "timm": lambda var, n: 1 / np.sqrt(var + 1e-6),
    "qiao": lambda var, n: 1 / (np.sqrt(var * n / (n - 1)) + 1e-5),
    "qiao_tf": lambda var, n: 1 / (np.sqrt(var) + 1e-5),
    "nfnet": lambda var, n: 1 / np.sqrt(np.maximum(var * n, 1e-4)),
    "timm_scaled": lambda var, n: n**-0.5 / np.sqrt(var + 1e-6),
}


@pytest.mark.parametrize("gain", [False, True], ids=["", "gain"])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("mode", cases.EPSILON_MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", named(cases.KERNELS))
def test_values_and_gradients(case, dtype, mode, ddof, gain):
    # With clamp_variance this epsilon lies amid the variances.
    check(case, dtype, dtype, gain=gain, epsilon=2e-3, epsilon_mode=mode, ddof=ddof, scale=0.3)


@pytest.mark.parametrize("dtype, dtype_out", TYPE_PAIRS)
@pytest.mark.parametrize("name", ["conv2d", "conv2d_oihw", "depthwise", "interleaved", "dense"])
def test_every_pair_of_types(name, dtype, dtype_out):
    check(cases.KERNELS[name], dtype, dtype_out, epsilon=1e-6)


@given(case=strategies.kernels())
def test_random_kernels(case):
    # The gradient of few gains is few numbers, whose terms can cancel.
    gain = outputs(case) >= 4
    # Where float32 sums 64 rows, one value in millions comes to 1.03 times the bound.
    check(case, "float32", "float32", slack=1.25, gain=gain, epsilon=1e-6)


@pytest.mark.parametrize("mean", [1e1, 1e3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["conv2d", "conv2d_oihw", "conv2d_transpose", "interleaved"])
def test_a_mean_far_from_zero(name, dtype, mean):
    check(cases.KERNELS[name], dtype, dtype, mean=mean, std=1.0, epsilon=1e-6)


@pytest.mark.parametrize("gain", [False, True], ids=["", "gain"])
@pytest.mark.parametrize("case", named(cases.EMPTY_KERNELS))
def test_empty_kernels(case, gain):
    arguments = make_arguments(case, "float32", gain=gain)
    w_hat, mean, rstd, gradients = run(case, arguments, "float32", tf.zeros(case.shape))
    assert w_hat.shape == gradients["w"].shape == case.shape
    assert mean.shape == rstd.shape == (outputs(case),)
    np.testing.assert_array_equal(mean, np.zeros(outputs(case)))
    np.testing.assert_allclose(rstd, np.full(outputs(case), 1e5), rtol=1e-5)
    if gain and outputs(case):
        np.testing.assert_array_equal(gradients["gain"], np.zeros(outputs(case)))


@pytest.mark.parametrize("mode", cases.EPSILON_MODES)
@pytest.mark.parametrize("name", ["conv2d", "conv2d_oihw", "interleaved"])
def test_a_constant_channel_has_no_deviation(name, mode):
    case = cases.KERNELS[name]
    arguments = {"w": tf.fill(case.shape, 0.25), "gain": tf.ones([outputs(case)])}
    dy = tf.cast(np.random.default_rng(1).normal(size=case.shape), "float32")
    attrs = {"epsilon": 1e-4, "epsilon_mode": mode}
    w_hat, _, _, gradients = run(case, arguments, "float32", dy, **attrs)
    np.testing.assert_array_equal(w_hat, np.zeros(case.shape))
    np.testing.assert_array_equal(gradients["gain"], np.zeros(outputs(case)))
    expected = reference.standardize_weights(
        arguments["w"], arguments["gain"], axis=case.axis, dy=dy, **attrs
    )
    reference.assert_gradient(gradients["w"], expected.gradients["w"], "float32", offset=1e2)


@pytest.mark.parametrize("mode", cases.EPSILON_MODES)
@pytest.mark.parametrize("case", [((19,), (0,)), ((3, 3), (0, 1)), ((1, 1, 17, 2), (2, 3))])
def test_a_single_weight_is_its_own_mean(case, mode):
    case = cases.KernelCase(*case)
    arguments = make_arguments(case, "float32")
    attrs = {"epsilon": 1e-2, "epsilon_mode": mode}
    w_hat, mean, rstd, gradients = run(case, arguments, "float32", tf.ones(case.shape), **attrs)
    np.testing.assert_array_equal(w_hat, np.zeros(case.shape))
    np.testing.assert_array_equal(mean, tf.reshape(arguments["w"], [-1]))
    np.testing.assert_array_equal(gradients["gain"], np.zeros(outputs(case)))
    # The difference of two equal numbers of this size.
    scale = np.abs(arguments["gain"] * rstd).reshape(case.shape)
    assert (np.abs(gradients["w"]) <= 2.0**-22 * scale).all()


@pytest.mark.parametrize("gain", [False, True], ids=["", "gain"])
@pytest.mark.parametrize("name", ["conv2d", "depthwise", "conv2d_transpose"])
@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_published_definitions(variant, name, gain):
    case = cases.KERNELS[name]
    arguments = make_arguments(case, "float64", gain=gain)
    w = arguments["w"].numpy()
    reduced = tuple(set(range(w.ndim)) - {i % w.ndim for i in case.axis})
    fan_in = np.prod([w.shape[i] for i in reduced])
    factor = PUBLISHED[variant](w.var(reduced, keepdims=True), fan_in)
    expected = (w - w.mean(reduced, keepdims=True)) * factor
    if gain:
        expected *= per_output(arguments["gain"], case)
    actual = tfgn.standardize_weights(w, arguments["gain"], variant=variant, axis=case.axis)
    # The attributes epsilon and scale are float32.
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)


def test_an_epsilon_of_ones_own():
    w = make_arguments(cases.KERNELS["conv2d"], "float32")["w"]
    np.testing.assert_array_equal(
        tfgn.standardize_weights(w, variant="bit", epsilon=1e-6),
        tfgn.standardize_weights(w, variant="timm"),
    )


def test_the_function_converts_its_arguments():
    w = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype(np.float32)
    expected = tfgn.standardize_weights(w)
    np.testing.assert_array_equal(tfgn.standardize_weights(tf.Variable(w), axis=[3]), expected)
    np.testing.assert_array_equal(tfgn.standardize_weights(w.tolist(), [1] * 6), expected)
    half = tfgn.standardize_weights(w, dtype="float16")
    np.testing.assert_array_equal(half, tf.cast(expected, "float16"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"variant": "bn"}, "variant='bn'"),
        ({"epsilon": -1.0}, "epsilon=-1.0"),
        ({"w": tf.TensorSpec([3, None])}, r"w.shape=\(3, None\)"),
    ],
)
def test_the_function_names_the_argument_at_fault(arguments, message):
    w = arguments.pop("w", tf.TensorSpec([3, 4]))
    with pytest.raises(ValueError, match=message):
        tf.function(lambda w: tfgn.standardize_weights(w, **arguments)).get_concrete_function(w)
