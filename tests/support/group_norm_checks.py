"""Calls of GroupNorm and of its gradient, compared with the float64 reference."""

import numpy as np
import reference
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from cases import parameter_dtype
from tensors import random

EPSILON = 1e-3


def make_arguments(case, dtype, *, affine="per_channel", residual=False, mean=0.0, seed=0):
    """x, gamma, beta and side, the last three `None` where absent."""
    rng = np.random.default_rng(seed)
    shape, axis = case.shape, case.axis
    arguments = {"x": random(rng, shape, dtype, mean), "gamma": None, "beta": None, "side": None}
    if affine != "absent":
        per_sample = [shape[0], shape[axis]]
        for name in {"scale": ("gamma",), "shift": ("beta",)}.get(affine, ("gamma", "beta")):
            arguments[name] = random(
                rng,
                per_sample if affine == "per_sample" else per_sample[1:],
                parameter_dtype(dtype),
            )
    if residual:
        arguments["side"] = random(rng, shape, dtype)
    return arguments


def run(case, arguments, activation="linear", dy=None):
    """y, mean, rstd of the op, and the gradients for `dy` by name."""
    absent = tf.zeros([0], parameter_dtype(arguments["x"].dtype.name))
    sources = {name: t for name, t in arguments.items() if t is not None}
    with tf.GradientTape() as tape:
        tape.watch(sources)
        gamma, beta, side = (arguments[name] for name in ("gamma", "beta", "side"))
        y, mean, rstd, _ = tfgn.raw_ops.GroupNorm(
            x=arguments["x"],
            gamma=absent if gamma is None else gamma,
            beta=absent if beta is None else beta,
            side_input=[] if side is None else [side],
            groups=case.groups,
            axis=case.axis,
            epsilon=EPSILON,
            activation=activation,
        )
    gradients = None if dy is None else tape.gradient(y, sources, dy)
    return y, mean, rstd, gradients


def expect(case, arguments, activation="linear", dy=None):
    return reference.group_norm(
        *(arguments[name] for name in ("x", "gamma", "beta", "side")),
        groups=case.groups,
        axis=case.axis,
        epsilon=EPSILON,
        activation=activation,
        dy=dy,
    )


def broadcast(parameter, case):
    """A `[C]` or `[N, C]` parameter, broadcastable to x."""
    parameter = reference.wide(parameter)
    shape = [1] * len(case.shape)
    shape[case.axis] = parameter.shape[-1]
    if parameter.ndim == 2:
        shape[0] = parameter.shape[0]
    return parameter.reshape(shape)


def assert_values(case, arguments, y, expected, slack=1.0):
    terms = 0.0
    if arguments["beta"] is not None:
        terms = np.abs(broadcast(arguments["beta"], case))
    if arguments["side"] is not None:
        terms = terms + np.abs(reference.wide(arguments["side"]))
    reference.assert_values(
        y,
        expected.y,
        arguments["x"].dtype.name,
        offset=reference.offset_in_deviations(expected, case.shape, case.axis),
        scale=slack * (1.0 if arguments["gamma"] is None else broadcast(arguments["gamma"], case)),
        terms=terms,
    )


def assert_gradients(arguments, gradients, expected):
    dtype = arguments["x"].dtype.name
    offset = (np.abs(expected.mean) * expected.rstd).max(initial=0)
    reference.assert_gradients(gradients, expected.gradients, arguments, dtype, offset)


def check(case, dtype, activation="linear", *, slack=1.0, **options):
    """Compares values, statistics and gradients; `slack` widens the bound of the values."""
    arguments = make_arguments(case, dtype, **options)
    dy = random(np.random.default_rng(1), case.shape, dtype)
    y, mean, rstd, gradients = run(case, arguments, activation, dy)
    expected = expect(case, arguments, activation, dy)
    assert y.dtype == arguments["x"].dtype
    assert_values(case, arguments, y, expected, slack)
    assert_gradients(arguments, gradients, expected)
    reference.assert_statistics(mean, rstd, expected, dtype)
