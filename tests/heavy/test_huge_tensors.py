"""Tensors of more than 2^31 elements, whose offsets 32 bits do not hold.

The elements repeat with a period that divides no power of 2, so that an offset that wraps around
reads wrong values. Needs 20 GiB of memory and some minutes.
"""

import gc

import cases
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from parameters import named

PERIOD = 1_000_003
# Elements that are compared at a time.
SLICE = 2**24


def periodic(shape, seed):
    size = int(np.prod(shape))
    values = tf.constant(np.random.default_rng(seed).normal(0.5, 1, PERIOD).astype("float16"))
    return tf.reshape(tf.tile(values, [size // PERIOD + 1])[:size], shape)


def empty(dtype="float32"):
    return tf.zeros([0], dtype)


class Groups:
    """Blocks of the tensors of a GroupNorm, by sample and group, and sums over them."""

    def __init__(self, shape, axis, groups):
        self.n, self.c = shape[0], shape[axis]
        self.a = int(np.prod(shape[1 : axis % len(shape)]))
        self.b = int(np.prod(shape[axis % len(shape) + 1 :]))
        self.groups = groups

    def slices(self, *tensors):
        """Sample, group, and blocks `[a, c / groups, b]` of it of the tensors, some at a time."""
        views = [
            np.asarray(t).reshape(self.n, self.a, self.groups, self.c // self.groups, self.b)
            for t in tensors
        ]
        of_a = max(1, SLICE // (self.c // self.groups * self.b))
        of_b = max(1, SLICE // (self.c // self.groups))
        for i in range(self.n):
            for g in range(self.groups):
                for a in range(0, self.a, of_a):
                    for b in range(0, self.b, of_b):
                        yield i, g, [v[i, a : a + of_a, g, :, b : b + of_b] for v in views]

    def sums(self, functions, *tensors):
        """For each function of the blocks and `(i, g)`, its sum by sample and group, in float64."""
        sums = np.zeros((len(functions), self.n, self.groups))
        for i, g, blocks in self.slices(*tensors):
            wide = [block.astype("float32") for block in blocks]
            for sum_, function in zip(sums, functions, strict=True):
                sum_[i, g] += np.sum(function(i, g, *wide), dtype="float64")
        return sums / (self.a * self.b * (self.c // self.groups))


@pytest.mark.heavy
@pytest.mark.parametrize("case", named(cases.group_norms("huge")))
def test_group_norm(case):
    shape, axis, groups = case.shape, case.axis, case.groups
    assert np.prod(shape, dtype="int64") > 2**31
    x = periodic(shape, 0)
    view = Groups(shape, axis, groups)
    options = {"gamma": empty(), "beta": empty(), "side_input": [], "groups": groups, "axis": axis}
    y, mean, rstd, rest = tfgn.raw_ops.GroupNorm(x=x, with_rest=1, **options)
    (expected_mean,) = view.sums([lambda i, g, x: x], x)
    (variance,) = view.sums([lambda i, g, x: (x - np.float32(expected_mean[i, g])) ** 2], x)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-5)
    np.testing.assert_allclose(rstd, (variance + 1e-3) ** -0.5, rtol=1e-5)
    mean, rstd = mean.numpy(), rstd.numpy()

    def x_hat(i, g, x):
        return (x - mean[i, g]) * rstd[i, g]

    for i, g, (of_x, of_y) in view.slices(x, y):
        np.testing.assert_allclose(of_y, x_hat(i, g, of_x.astype("float32")), rtol=1e-3, atol=1e-3)
    del y, of_y
    gc.collect()

    dy = periodic(shape, 1)
    saved = {"mean": mean, "rstd": rstd, "rest": rest}
    dx = tfgn.raw_ops.GroupNormGrad(dy=dy, x=x, **saved, **options).dx
    of_dy, of_both = view.sums(
        [lambda i, g, dy, x: dy, lambda i, g, dy, x: dy * x_hat(i, g, x)], dy, x
    )
    for i, g, (block_dy, block_x, block_dx) in view.slices(dy, x, dx):
        projected = of_dy[i, g] + x_hat(i, g, block_x.astype("float32")) * of_both[i, g]
        expected = rstd[i, g] * (block_dy.astype("float32") - projected)
        np.testing.assert_allclose(block_dx, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.heavy
@pytest.mark.parametrize("axis", [1, 0])
def test_standardize_weights(axis):
    shape = (2**15 + 1, 2**16)
    w = periodic(shape, 0)
    arguments = {"gain": empty(), "axis": [axis]}
    w_hat, mean, rstd = tfgn.raw_ops.StandardizeWeights(w=w, Tout="float16", **arguments)
    mean, rstd = mean.numpy(), rstd.numpy()
    dw_hat = periodic(shape, 1)

    def rows(*tensors):
        """Blocks of whole output channels, as rows."""
        views = [np.asarray(t) if axis == 0 else np.asarray(t).T for t in tensors]
        count = SLICE // views[0].shape[1]
        for start in range(0, len(views[0]), count):
            of_rows = slice(start, start + count)
            yield of_rows, [view[of_rows].astype("float32") for view in views]

    for of_rows, (block, block_hat) in rows(w, w_hat):
        exact = block.mean(1, dtype="float64")
        np.testing.assert_allclose(mean[of_rows], exact, rtol=1e-4, atol=1e-6)
        centered = block - exact[:, None].astype("float32")
        expected = centered / np.sqrt((centered**2).mean(1, dtype="float64")[:, None])
        np.testing.assert_allclose(block_hat, expected, rtol=1e-3, atol=1e-3)
    del w_hat
    gc.collect()
    dw, _ = tfgn.raw_ops.StandardizeWeightsGrad(
        dw_hat=dw_hat, w=w, mean=mean, rstd=rstd, **arguments
    )
    for of_rows, (g, block, block_dw) in rows(dw_hat, w, dw):
        hat = (block - mean[of_rows, None]) * rstd[of_rows, None]
        of_g, of_both = (t.mean(1, dtype="float64")[:, None] for t in (g, g * hat))
        expected = rstd[of_rows, None] * (g - of_g - hat * of_both)
        np.testing.assert_allclose(block_dw, expected, rtol=1e-3, atol=2e-3)
