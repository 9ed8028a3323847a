"""The normalizations of a study that the library does not have, against formulas in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tfgn_study.train.normalizations import (
    batch_channel,
    batch_norm,
    channels,
    evonorm,
    filter_response,
    normalizer_free,
    proxy,
)

X = np.random.default_rng(0).normal(0.5, 2, (3, 4, 5, 16)).astype(np.float32)


def randomized(layer, shape=X.shape):
    """Gives the weights of a layer values between 0.5 and 1.5, and returns them by name."""
    if not layer.built:
        layer.build(shape)
    rng = np.random.default_rng(1)
    values = {}
    for weight in layer.weights:
        values[weight.name] = rng.uniform(0.5, 1.5, weight.shape).astype(np.float32)
        weight.assign(values[weight.name])
    return values


def check(layer, expected, x=X):
    """Checks what a layer returns, also where it computes in bfloat16."""
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=2e-5)
    low = type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})
    low.build(x.shape)
    low.set_weights(layer.get_weights())
    y = low(x)
    assert y.dtype == "bfloat16"
    np.testing.assert_allclose(keras.ops.cast(y, "float32"), expected, rtol=0.03, atol=0.03)


def test_filter_response_normalization():
    layer = filter_response.FilterResponseNormalization()
    w = randomized(layer)
    norm = np.sqrt(np.einsum("nhwc,nhwc->nc", X, X) / 20 + 1e-6)[:, None, None]
    check(layer, w["gamma"] * X / norm + w["beta"])


def test_filter_response_normalization_of_one_pixel_has_a_learned_epsilon():
    layer = filter_response.FilterResponseNormalization()
    layer.build((None, 1, 1, 16))
    np.testing.assert_array_equal(layer.learned, np.full(16, 1e-4, np.float32))
    w = randomized(layer, (None, 1, 1, 16))
    x = X[:, :1, :1]
    expected = w["gamma"] * x / np.sqrt(x**2 + 1e-6 + w["epsilon"]) + w["beta"]
    check(layer, expected, x)


def test_thresholded_linear_unit():
    layer = filter_response.ThresholdedLinearUnit()
    layer.build(X.shape)
    np.testing.assert_array_equal(layer(X), np.maximum(X, 0))
    tau = randomized(layer)["tau"]
    check(layer, np.where(X > tau, X, tau))


def in_groups(x, groups):
    """The mean and the variance of each group of channels, of the shape of x."""
    n, height, width, count = x.shape
    grouped = x.reshape(n, height * width, groups, count // groups).astype(np.float64)
    mean, variance = (
        np.broadcast_to(f(axis=(1, 3), keepdims=True), grouped.shape).reshape(x.shape)
        for f in (grouped.mean, grouped.var)
    )
    return mean, variance


@pytest.mark.parametrize("arguments", [{"groups": 4}, {"group_size": 2}])
def test_evonorm(arguments):
    layer = evonorm.EvoNormS0(**arguments)
    w = randomized(layer)
    groups = arguments.get("groups", 8)
    swish = X / (1 + np.exp(-w["v"] * X))
    expected = w["gamma"] * swish / np.sqrt(in_groups(X, groups)[1] + 1e-5) + w["beta"]
    check(layer, expected)


def test_scale_and_shift():
    layer = channels.ScaleAndShift()
    w = randomized(layer)
    check(layer, w["gamma"] * X + w["beta"])


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (0.7, 1.3), (-2, 0.5), (3, 0.1), (-0.5, 0)])
def test_moments_of_a_rectified_gaussian(mean, std):
    z, step = np.linspace(-12, 12, 240_001, retstep=True)
    weights = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * step
    rectified = np.maximum(mean + std * z, 0)
    first = (weights * rectified).sum()
    variance = (weights * (rectified - first) ** 2).sum()
    found = proxy.rectified_moments(np.float32(mean), np.float32(std))
    np.testing.assert_allclose(found, [first, variance], rtol=2e-5, atol=2e-6)


def test_proxy_normalization():
    layer = proxy.ProxyNormalizedActivation(groups=4, epsilon=1e-3)
    w = randomized(layer)
    mean, variance = in_groups(X, 4)
    rng = np.random.default_rng(2)
    z = w["proxy_shift"] + (1 + w["proxy_scale"]) * rng.normal(size=(400_000, 16))
    proxies = np.maximum(w["gamma"] * z + w["beta"], 0)
    y = np.maximum(w["gamma"] * (X - mean) / np.sqrt(variance + 1e-3) + w["beta"], 0)
    y = (y - proxies.mean(0)) / np.sqrt(proxies.var(0) + 0.03)
    np.testing.assert_allclose(layer(X), y, rtol=0.01, atol=0.01)


def test_proxy_normalization_standardizes_rectified_gaussian_channels():
    x = np.random.default_rng(3).normal(size=(2, 100, 100, 4)).astype(np.float32)
    y = np.asarray(proxy.ProxyNormalizedActivation(groups=1)(x))
    # The variance of a rectified Gaussian is 1/2 - 1/(2 pi); the epsilon is 0.03.
    variance = 0.5 - 0.5 / np.pi
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=0.02)
    np.testing.assert_allclose(y.var((0, 1, 2)), variance / (variance + 0.03), rtol=0.05)


def test_batch_normalization_by_estimates():
    layer = batch_channel.EstimatedBatchNormalization(epsilon=1e-3)
    w = randomized(layer)
    x = X.astype(np.float64)
    mean = 0.9 * w["moving_mean"] + 0.1 * x.mean((0, 1, 2))
    variance = 0.9 * w["moving_variance"] + 0.1 * ((x - mean) ** 2).mean((0, 1, 2))
    expected = w["gamma"] * (x - mean) / np.sqrt(variance + 1e-3) + w["beta"]
    np.testing.assert_allclose(layer(X, training=True), expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)
    check(layer, expected)


def test_estimates_are_constants_for_the_gradient():
    layer = batch_channel.EstimatedBatchNormalization(epsilon=1e-3)
    w = randomized(layer)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    slope = w["gamma"] / np.sqrt(layer.moving_variance.numpy() + 1e-3)
    np.testing.assert_allclose(tape.gradient(y, x), np.broadcast_to(slope, X.shape), rtol=1e-5)


def test_scaled_relu_keeps_the_variance():
    x = np.random.default_rng(4).normal(size=100_000).astype(np.float32)
    y = np.asarray(normalizer_free.ScaledReLU()(x))
    np.testing.assert_allclose(y.var(), 1, rtol=0.02)
    np.testing.assert_allclose(y[x > 0] / x[x > 0], 1.712859, rtol=1e-6)


def test_branch_of_a_normalizer_free_network_starts_at_0():
    layer = normalizer_free.SkipInit()
    assert not np.any(layer(X))
    layer.gain.assign(3)
    np.testing.assert_allclose(layer(X), 0.6 * X, rtol=1e-6)


def renormalized(x, w, largest_r, largest_d):
    """What batch renormalization returns, with the moving statistics of before the step."""
    x = x.astype(np.float64)
    mean, std = x.mean((0, 1, 2)), np.sqrt(x.var((0, 1, 2)) + 1e-3)
    r = np.clip(std / w["renorm_stddev"], 1 / largest_r, largest_r)
    d = np.clip((mean - w["renorm_mean"]) / w["renorm_stddev"], -largest_d, largest_d)
    return w["gamma"] * ((x - mean) / std * r + d) + w["beta"]


@pytest.mark.parametrize(
    ("done", "largest_r", "largest_d"),
    [(0, 1, 0), (5, 1, 0), (15, 1 + 2 * 10 / 35, 2.5), (25, 1 + 2 * 20 / 35, 5), (40, 3, 5)],
)
def test_limits_of_batch_renormalization_grow(done, largest_r, largest_d):
    layer = batch_norm.BatchRenormalization()
    layer.steps = 130
    w = randomized(layer)
    layer.done.assign(done)
    x = 4 * X
    expected = renormalized(x, w, largest_r, largest_d)
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-4, atol=1e-4)
    momentum = min(0.99, (1 + done) / (10 + done))
    mean = momentum * w["renorm_mean"] + (1 - momentum) * x.mean((0, 1, 2))
    np.testing.assert_allclose(layer.renorm_mean, mean, rtol=1e-5)
    assert layer.done.numpy() == done + 1


def test_batch_renormalization_validates_with_its_training_statistics():
    layer = batch_norm.BatchRenormalization()
    layer.steps = 130
    w = randomized(layer)
    layer.moving_stddev.assign(layer.renorm_stddev)
    layer.moving_mean.assign(layer.renorm_mean)
    for _ in range(3):
        layer(X, training=True)
    mean, std = layer.renorm_mean.numpy(), layer.renorm_stddev.numpy()
    expected = w["gamma"] * (X - mean) / std + w["beta"]
    np.testing.assert_allclose(layer(X), expected, rtol=1e-4, atol=1e-4)


def test_frozen_batch_normalization_uses_and_keeps_its_statistics():
    layer = batch_norm.FreezableBatchNormalization()
    w = randomized(layer)
    still = w["gamma"] * (X - w["moving_mean"]) / np.sqrt(w["moving_variance"] + 1e-3) + w["beta"]
    assert np.abs(layer(X, training=True) - still).max() > 0.1
    layer.moving_mean.assign(w["moving_mean"])
    layer.moving_variance.assign(w["moving_variance"])
    layer.frozen = True
    np.testing.assert_allclose(layer(X, training=True), still, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(layer.moving_mean, w["moving_mean"])
    assert len(layer.trainable_variables) == 2
