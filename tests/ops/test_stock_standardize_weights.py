"""The portable weight standardization, against float64 NumPy and numerical derivatives."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from derivatives import (
    by_autodiff,
    check_derivatives,
    first_and_second_order,
    random,
    relative_error,
)
from tensorflow_groupnorm import stock
from tfgn_base.variants import VARIANTS, resolve


def standardized_float64(w, gain, variant, axis, epsilon=None):
    """By the formulas as published, one flat row per output channel."""
    w = np.asarray(w, np.float64)
    kept = sorted(a % w.ndim for a in np.atleast_1d(axis))
    rows = np.moveaxis(w, kept, range(len(kept)))
    moved = rows.shape
    rows = rows.reshape(np.prod(moved[: len(kept)]), -1)
    fan_in = rows.shape[1]
    centered = rows - rows.mean(1, keepdims=True)
    ddof = 1 if variant == "qiao" else 0
    var = np.square(centered).sum(1, keepdims=True) / (fan_in - ddof)
    published = {
        "bit": (1e-10, lambda e: 1 / np.sqrt(var + e)),
        "timm": (1e-6, lambda e: 1 / np.sqrt(var + e)),
        "qiao": (1e-5, lambda e: 1 / (np.sqrt(var) + e)),
        "qiao_tf": (1e-5, lambda e: 1 / (np.sqrt(var) + e)),
        "nfnet": (1e-4, lambda e: 1 / np.sqrt(np.maximum(var * fan_in, e))),
        "timm_scaled": (1e-6, lambda e: fan_in**-0.5 / np.sqrt(var + e)),
    }
    default, factor = published[variant]
    rows = centered * factor(default if epsilon is None else epsilon)
    if gain is not None:
        rows = rows * np.reshape(gain, [-1, 1])
    return np.moveaxis(rows.reshape(moved), range(len(kept)), kept)


KERNELS = [((3, 3, 4, 6), -1), ((3, 3, 6, 4), -2), ((3, 3, 4, 2), (-2, -1)), ((2, 5, 3), [0, 2])]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape, axis", KERNELS)
def test_standardize_weights_values(variant, shape, axis):
    rng = np.random.default_rng(9)
    outputs = np.prod([shape[a] for a in np.atleast_1d(axis)])
    gain = random(rng, [outputs])
    # Small enough for every epsilon to matter.
    w = random(rng, shape) * 3e-3 + 0.01
    for epsilon, gain_or_none in itertools.product((None, 1e-3, 0.0), (gain, None)):
        for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
            w_hat = stock.standardize_weights(
                tf.cast(w, dtype), gain_or_none, variant=variant, epsilon=epsilon, axis=axis
            )
            assert w_hat.dtype == dtype
            expected = standardized_float64(w, gain_or_none, variant, axis, epsilon)
            assert relative_error(w_hat, expected) < tolerance


@pytest.mark.parametrize("variant", ["bit", "qiao", "nfnet"])
@pytest.mark.parametrize("unknown", ["some", "all", "rank"])
@pytest.mark.parametrize("shape, axis", KERNELS)
def test_standardize_weights_of_unknown_shapes(variant, shape, axis, unknown):
    rng = np.random.default_rng(9)
    gain = random(rng, [np.prod([shape[a] for a in np.atleast_1d(axis)])])
    w, dw_hat = random(rng, shape) * 3e-3, random(rng, shape)

    def values_and_gradients(w, gain):
        with tf.GradientTape() as tape:
            tape.watch([w, gain])
            w_hat = stock.standardize_weights(w, gain, variant=variant, axis=axis)
        return w_hat, *tape.gradient(w_hat, [w, gain], dw_hat)

    traced_shape = {"some": [None, *shape[1:-1], None], "all": [None] * len(shape), "rank": None}
    traced = tf.function(
        values_and_gradients,
        input_signature=[tf.TensorSpec(s, tf.float64) for s in (traced_shape[unknown], [None])],
    )
    for a, b in zip(traced(w, gain), values_and_gradients(w, gain), strict=True):
        assert relative_error(a, b) < 1e-12


def test_variants_are_those_of_the_reference():
    # A variant without a formula above would go untested.
    for variant in VARIANTS:
        standardized_float64(np.eye(3), None, variant, -1)


def test_standardize_weights_into_another_dtype():
    w = random(np.random.default_rng(10), [3, 3, 4, 6], "float32")
    w_hat = stock.standardize_weights(w, dtype="bfloat16")
    assert w_hat.dtype == tf.bfloat16
    expected = tf.cast(stock.standardize_weights(w), tf.bfloat16)
    np.testing.assert_array_equal(tf.cast(w_hat, "float32"), tf.cast(expected, "float32"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_standardize_weights_derivatives(variant):
    rng = np.random.default_rng(11)
    w, gain = random(rng, [3, 2, 4]) * 0.1, random(rng, [4])

    def f(w, gain):
        return stock.standardize_weights(w, gain, variant=variant)

    check_derivatives(f, [w, gain], rng)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape, axis", KERNELS)
def test_standardize_weights_grad_is_the_gradient_to_second_order(variant, shape, axis):
    rng = np.random.default_rng(12)
    outputs = np.prod([shape[a] for a in np.atleast_1d(axis)])
    w, gain, dw_hat = random(rng, shape) * 0.01, random(rng, [outputs]), random(rng, shape)
    cotangents = [random(rng, shape), random(rng, [outputs])]
    attrs = resolve(variant, None, int(np.prod(shape) // outputs))
    kept = {a % len(shape) for a in np.atleast_1d(axis)}
    reduced = tuple(set(range(len(shape))) - kept)
    mean, var = w.numpy().mean(reduced), w.numpy().var(reduced, ddof=attrs["ddof"])
    rstd = {
        "add_to_variance": lambda e: 1 / np.sqrt(var + e),
        "add_to_stddev": lambda e: 1 / (np.sqrt(var) + e),
        "clamp_variance": lambda e: 1 / np.sqrt(np.maximum(var, e)),
    }[attrs["epsilon_mode"]](attrs["epsilon"])

    def explicit(w, gain, dw_hat):
        return stock.standardize_weights_grad(
            dw_hat, w, gain, mean.ravel(), rstd.ravel(), axis=axis, **attrs
        )

    def f(w, gain):
        return stock.standardize_weights(w, gain, variant=variant, axis=axis)

    actual = first_and_second_order(explicit, [w, gain], dw_hat, cotangents)
    expected = first_and_second_order(by_autodiff(f), [w, gain], dw_hat, cotangents)
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert relative_error(a, b) < 1e-9


@pytest.mark.parametrize("variant", VARIANTS)
def test_constant_kernels_have_finite_gradients(variant):
    w = tf.zeros([3, 3, 2, 4])
    with tf.GradientTape() as tape:
        tape.watch(w)
        w_hat = stock.standardize_weights(w, variant=variant)
    dw = tape.gradient(w_hat, w, tf.random.normal(w.shape))
    np.testing.assert_array_equal(w_hat, w)
    assert np.all(np.isfinite(dw))


def test_one_weight_per_channel_becomes_zero_or_is_refused_as_by_the_op():
    w, statistic = tf.constant([[1.0, -2.0]]), tf.ones([2])
    refusal = "ddof must be 0 where an output channel has a single weight, but is 1 for w of shape "
    for variant, definition in VARIANTS.items():
        if not definition.ddof:
            np.testing.assert_array_equal(stock.standardize_weights(w, variant=variant), [[0, 0]])
            continue
        with pytest.raises(ValueError, match=rf"^{refusal}\(1, 2\)$"):
            stock.standardize_weights(w, variant=variant)
        with pytest.raises(ValueError, match=refusal):
            attrs = resolve(variant, None, 1)
            stock.standardize_weights_grad(w, w, None, statistic, statistic, axis=-1, **attrs)
        with pytest.raises(tf.errors.InvalidArgumentError, match=refusal):
            tfgn.standardize_weights(w, variant=variant)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(variant="ws"), r"`variant`.*'bit'.*'timm_scaled'.*'ws'"),
        (dict(epsilon=-1e-5), r"`epsilon`.*-1e-05"),
        (dict(axis=4), r"`axis`.*axis=4"),
        (dict(axis=[]), r"`axis`.*axis=\[\]"),
        (dict(gain=tf.ones([5])), r"`gain`.*\(4,\).*\(5,\)"),
        (dict(w=tf.ones([3, 4], tf.int32)), r"`w`.*int32"),
    ],
)
def test_standardize_weights_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        stock.standardize_weights(**dict(w=tf.ones([3, 3, 2, 4])) | arguments)
