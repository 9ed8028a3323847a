"""The two operations and their gradients in NumPy, and bounds on the error of a result.

The algorithm is not that of the kernels: two passes over the data, group by group, and gradients by
the chain rule, step by step. It runs in float64, or in longdouble if float64 itself is under test.
"""

from typing import NamedTuple

import numpy as np

# Unit roundoff of the arithmetic and of the storage of each element type. That of float64 is
# doubled, because no wider type holds its sums.
ARITHMETIC_ROUNDOFF = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-24,
    "float32": 2.0**-24,
    "float64": 2.0**-52,
}
STORAGE_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 0.0, "float64": 0.0}
SMALLEST_FLOAT16 = 2.0**-24


class Result(NamedTuple):
    """`y` with the statistics, and the gradients of `sum(dy * y)` if `dy` was given."""

    y: np.ndarray
    mean: np.ndarray
    rstd: np.ndarray
    gradients: dict


def wide(array):
    """The same numbers in a type to compute the reference in."""
    array = np.asarray(array)
    if array.dtype in (np.longdouble, np.complex128):
        return array
    return array.astype(np.longdouble if array.dtype == np.float64 else np.float64)


def activate(name, z):
    """`activation(z)` and its derivative."""
    if name == "linear":
        return z, np.ones_like(z)
    if name == "relu":
        positive = z.real > 0
        return np.where(positive, z, 0), positive.astype(z.dtype)
    sigmoid = 1 / (1 + np.exp(-z))
    return z * sigmoid, sigmoid * (1 + z * (1 - sigmoid))


def group_norm(
    x, gamma, beta, side, *, groups, axis=-1, epsilon=1e-3, activation="linear", dy=None
):
    """GroupNorm of `x`; `gamma`, `beta` and `side` may be `None`."""
    x, gamma, beta, side, dy = (None if t is None else wide(t) for t in (x, gamma, beta, side, dy))
    epsilon = float(np.float32(epsilon))
    xs = np.moveaxis(x, axis, 1)
    n, c = xs.shape[:2]
    per_channel = [
        t if t is None else np.broadcast_to(t, (n, c)).reshape(n, c, *[1] * (xs.ndim - 2))
        for t in (gamma, beta)
    ]
    scale = 1 if gamma is None else per_channel[0]

    mean, rstd = (np.zeros((n, groups), x.dtype) for _ in range(2))
    centered, x_hat = np.empty_like(xs), np.empty_like(xs)
    size = c // groups
    for i in range(n):
        for g in range(groups):
            block = (i, slice(g * size, (g + 1) * size))
            mean[i, g] = xs[block].mean() if xs[block].size else 0
            centered[block] = xs[block] - mean[i, g]
            variance = (centered[block] ** 2).mean() if xs[block].size else 0
            rstd[i, g] = (variance + epsilon) ** -0.5
            x_hat[block] = centered[block] * rstd[i, g]
    z = x_hat * scale
    if beta is not None:
        z = z + per_channel[1]
    if side is not None:
        z = z + np.moveaxis(side, axis, 1)
    y, derivative = activate(activation, z)
    gradients = {}
    if dy is not None:
        dz = np.moveaxis(dy, axis, 1) * derivative
        dx_hat = dz * scale
        dx = np.empty_like(xs)
        for i in range(n):
            for g in range(groups):
                block = (i, slice(g * size, (g + 1) * size))
                drstd = (dx_hat[block] * centered[block]).sum()
                dvariance = drstd * -0.5 * rstd[i, g] ** 3
                dcentered = dx_hat[block] * rstd[i, g]
                if dcentered.size:
                    dcentered += dvariance * 2 * centered[block] / dcentered.size
                    dcentered -= dcentered.mean()
                dx[block] = dcentered
        gradients["x"] = np.moveaxis(dx, 1, axis)
        spatial = tuple(range(2, xs.ndim))
        for name, parameter, d in (("gamma", gamma, dz * x_hat), ("beta", beta, dz)):
            if parameter is not None:
                total = d.sum(spatial)
                gradients[name] = total if parameter.ndim == 2 else total.sum(0)
        if side is not None:
            gradients["side"] = np.moveaxis(dz, 1, axis)
    return Result(np.moveaxis(y, 1, axis), mean, rstd, gradients)


def standardize_weights(
    w, gain, *, axis=(-1,), epsilon, epsilon_mode="add_to_variance", ddof=0, scale=1.0, dy=None
):
    """StandardizeWeights of `w`; `gain` may be `None`; `dy` is the gradient of `w_hat`."""
    w, gain, dy = (None if t is None else wide(t) for t in (w, gain, dy))
    epsilon, scale = float(np.float32(epsilon)), float(np.float32(scale))
    kept = sorted(i % w.ndim for i in axis)
    order = kept + [i for i in range(w.ndim) if i not in kept]

    def rows(t):
        t = np.transpose(t, order)
        return t.reshape(int(np.prod([w.shape[i] for i in kept])), -1)

    def back(t):
        return np.transpose(t.reshape([w.shape[i] for i in order]), np.argsort(order))

    ws = rows(w)
    outputs, fan_in = ws.shape
    gains = np.ones(outputs, w.dtype) if gain is None else gain
    mean, rstd = (np.zeros(outputs, w.dtype) for _ in range(2))
    w_hat = np.empty(ws.shape, np.result_type(ws, gains))
    dw, dgain = np.empty_like(ws), np.zeros(outputs, w.dtype)
    for o in range(outputs):
        mean[o] = ws[o].mean() if fan_in else 0
        centered = ws[o] - mean[o]
        variance = (centered**2).sum() / max(fan_in - ddof, 1)
        stddev = variance**0.5
        if epsilon_mode == "add_to_variance":
            rstd[o] = (variance + epsilon) ** -0.5
            drstd_dvariance = -0.5 * (variance + epsilon) ** -1.5
        elif epsilon_mode == "add_to_stddev":
            rstd[o] = 1 / (stddev + epsilon)
            drstd_dvariance = -((stddev + epsilon) ** -2) / (2 * stddev) if stddev else 0
        else:
            above = variance.real > epsilon
            rstd[o] = (variance if above else epsilon) ** -0.5
            drstd_dvariance = -0.5 * variance**-1.5 if above else 0
        factor = gains[o] * scale
        w_hat[o] = factor * centered * rstd[o]
        if dy is not None:
            d = rows(dy)[o]
            dgain[o] = (d * scale * centered * rstd[o]).sum()
            dvariance = (d * factor * centered).sum() * drstd_dvariance
            dcentered = d * factor * rstd[o] + dvariance * 2 * centered / max(fan_in - ddof, 1)
            dw[o] = dcentered - (dcentered.mean() if fan_in else 0)
    gradients = {} if dy is None else {"w": back(dw)}
    if dy is not None and gain is not None:
        gradients["gain"] = dgain
    return Result(back(w_hat), mean, rstd, gradients)


def offset_in_deviations(result, shape, axis):
    """`|mean| * rstd` of each element of a GroupNorm input of that shape."""
    ratio = np.abs(result.mean) * result.rstd
    ratio = np.repeat(ratio, shape[axis] // ratio.shape[1], 1)
    ratio = ratio.reshape(*ratio.shape, *[1] * (len(shape) - 2))
    return np.moveaxis(ratio, 1, axis)


def value_bound(expected, dtype, *, offset, scale, terms=0):
    """`2^-24 * (8 * (1 + |mean| * rstd) * |gamma| + 2 * |y64|)` and one rounding, for each value.

    Args:
        expected: the reference's values.
        dtype: decides the arithmetic's roundoff and the one of the result.
        offset: `|mean| * rstd`, broadcastable to the values.
        scale: the factor behind the normalization, broadcastable to the values.
        terms: sum of the magnitudes of what is added to the normalized values; it can cancel.
    """
    magnitude = np.abs(expected) + terms
    bound = ARITHMETIC_ROUNDOFF[dtype] * (8 * (1 + offset) * np.abs(scale) + 2 * magnitude)
    bound = bound + STORAGE_ROUNDOFF[dtype] * (np.abs(expected) + bound)
    return bound + SMALLEST_FLOAT16 if dtype == "float16" else bound


def assert_values(actual, expected, dtype, **factors):
    """Each value, of type `dtype`, lies within `value_bound` of the reference's."""
    actual = wide(actual)
    excess = np.abs(actual - expected) / value_bound(expected, dtype, **factors)
    assert actual.shape == expected.shape
    assert not np.size(excess) or excess.max() <= 1, f"{excess.max():.3g} times the bound"


def norm(array):
    """The square root of the sum of squares, in the type of the array."""
    return np.sqrt((array**2).sum())


def gradient_bound(expected, dtype, *, offset, stored_as=None):
    """A norm: relative `64 * 2^-24 * (1 + |mean| * rstd)` and one rounding.

    Args:
        expected: the reference's gradient.
        dtype: of the op's arithmetic.
        offset: the largest `|mean| * rstd`.
        stored_as: the gradient's own type, if not `dtype`.
    """
    stored_as = stored_as or dtype
    relative = 64 * ARITHMETIC_ROUNDOFF[dtype] * (1 + offset)
    bound = norm(expected) * (relative + STORAGE_ROUNDOFF[stored_as])
    return bound + SMALLEST_FLOAT16 * np.sqrt(expected.size) * (stored_as == "float16")


def assert_gradient(actual, expected, dtype, **factors):
    """The error of a gradient, in norm, lies within `gradient_bound`."""
    actual = wide(actual)
    assert actual.shape == expected.shape
    error, bound = norm(actual - expected), gradient_bound(expected, dtype, **factors)
    assert error <= bound, f"the error is {error:.3g} in norm, {bound:.3g} is allowed"


def assert_gradients(actual, expected, sources, dtype, offset):
    """The gradients lie within their bounds and have the dtypes of what they are of.

    Args:
        actual: by name.
        expected: by name.
        sources: tensors by name, others than those with a gradient among them.
        dtype: of the op's arithmetic.
        offset: of `gradient_bound`.
    """
    assert set(actual) == set(expected)
    for name, gradient in actual.items():
        assert gradient.dtype == sources[name].dtype
        stored_as = gradient.dtype.name
        assert_gradient(gradient, expected[name], dtype, offset=offset, stored_as=stored_as)


def assert_statistics(mean, rstd, expected, dtype):
    """Mean and rstd lie within some roundings of the arithmetic, relative to the deviation.

    Args:
        mean: of an op, by sample and group or by output channel.
        rstd: as `mean`.
        expected: the reference's `Result`.
        dtype: of the op's arithmetic.
    """
    roundoff = ARITHMETIC_ROUNDOFF[dtype]
    deviation = (1 / expected.rstd).max(initial=0)
    offset = (np.abs(expected.mean) * expected.rstd).max(initial=0)
    np.testing.assert_allclose(
        mean, expected.mean, rtol=2 * roundoff, atol=8 * roundoff * deviation
    )
    np.testing.assert_allclose(rstd, expected.rstd, rtol=8 * roundoff * (1 + offset))
