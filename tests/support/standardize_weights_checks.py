"""Calls of StandardizeWeights and of its gradient, compared with the float64 reference."""

import cases
import numpy as np
import reference
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from cases import parameter_dtype
from tensors import random

TYPE_PAIRS = [
    (w, w_hat)
    for w in cases.ELEMENT_TYPES
    for w_hat in cases.ELEMENT_TYPES
    if (w == "float64") == (w_hat == "float64")
]


def outputs(case):
    return int(np.prod([case.shape[i] for i in case.axis]))


def make_arguments(case, dtype, *, gain=True, mean=0.0, std=0.05):
    """w and gain. The output channels differ in their spread by a factor of up to 10^3."""
    rng = np.random.default_rng(0)
    spread = np.ones(len(case.shape), int)
    spread[list(case.axis)] = [case.shape[i] for i in case.axis]
    spread = 10 ** rng.uniform(-1.5, 1.5, spread)
    w = random(rng, case.shape, dtype, mean, spread * std)
    gain = random(rng, outputs(case), parameter_dtype(dtype)) if gain else None
    return {"w": w, "gain": gain}


def run(case, arguments, dtype_out, dy=None, **attrs):
    """w_hat, mean and rstd of the op, and the gradients for `dy` by name."""
    sources = {name: t for name, t in arguments.items() if t is not None}
    gain = arguments["gain"]
    if gain is None:
        gain = tf.zeros([0], parameter_dtype(arguments["w"].dtype.name))
    with tf.GradientTape() as tape:
        tape.watch(sources)
        w_hat, mean, rstd = tfgn.raw_ops.StandardizeWeights(
            w=arguments["w"], gain=gain, axis=case.axis, Tout=dtype_out, **attrs
        )
    return w_hat, mean, rstd, None if dy is None else tape.gradient(w_hat, sources, dy)


def per_output(values, case):
    """`[O]`, broadcastable to w."""
    shape = [1] * len(case.shape)
    for i in case.axis:
        shape[i] = case.shape[i]
    return reference.wide(values).reshape(shape)


def check(case, dtype, dtype_out, *, gain=True, mean=0.0, std=0.05, slack=1.0, **attrs):
    """Compares values, statistics and gradients; `slack` widens the bound of the values."""
    arguments = make_arguments(case, dtype, gain=gain, mean=mean, std=std)
    dy = random(np.random.default_rng(1), case.shape, dtype_out)
    w_hat, mean, rstd, gradients = run(case, arguments, dtype_out, dy, **attrs)
    expected = reference.standardize_weights(
        arguments["w"], arguments["gain"], axis=case.axis, dy=dy, **attrs
    )
    assert w_hat.dtype == dtype_out
    offset = np.abs(expected.mean) * expected.rstd
    factor = attrs.get("scale", 1.0) * (arguments["gain"].numpy() if gain else np.ones(len(mean)))
    reference.assert_values(
        w_hat,
        expected.y,
        dtype_out,
        offset=per_output(offset, case),
        scale=slack * per_output(factor, case),
    )
    reference.assert_statistics(mean, rstd, expected, dtype)
    reference.assert_gradients(gradients, expected.gradients, arguments, dtype, offset.max())
