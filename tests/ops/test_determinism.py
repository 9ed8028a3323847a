"""The same bits on every call, for any number of threads and on any thread."""

import concurrent.futures
import functools
import hashlib

import cases
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from paths import SUPPORT, python_path
from tensors import random

# Tensors that are shared among threads, of 1 MiB and more, and smaller ones that are not. The
# kernels share the smaller ones as well in tests/kernels.
GROUP_NORM = [
    *cases.LARGE.values(),
    cases.group_norms("resnet50")["conv1_pooled"],
    cases.GROUP_NORM["image_middle"],
]
KERNELS = [
    *cases.LARGE_KERNELS.values(),
    cases.KERNELS["depthwise"],
]
DTYPES = ("bfloat16", "float32", "float64")


def group_norm(case, x, gamma, beta, residual, dy):
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta, residual])
        y = tfgn.group_norm(
            x, gamma, beta, case.groups, axis=case.axis, activation="silu", residual=residual
        )
    return y, *tape.gradient(y, [x, gamma, beta, residual], dy)


def standardize_weights(case, w, gain, dw_hat):
    with tf.GradientTape() as tape:
        tape.watch([w, gain])
        w_hat = tfgn.standardize_weights(w, gain, axis=case.axis)
    return w_hat, *tape.gradient(w_hat, [w, gain], dw_hat)


def eagerly(function, *arguments):
    return function(*arguments)


def under_jit(function, *arguments):
    return tf.function(function, jit_compile=True, autograph=False)(*arguments)


def results(dtype, call):
    """The values and gradients of every case, in order."""
    rng = np.random.default_rng(0)
    parameter_dtype = cases.parameter_dtype(dtype)

    def make(shape, dtype=dtype):
        return random(rng, shape, dtype, mean=0.5)

    for case in GROUP_NORM:
        x, residual, dy = (make(case.shape) for _ in range(3))
        gamma, beta = (make([case.shape[case.axis]], parameter_dtype) for _ in range(2))
        yield from call(functools.partial(group_norm, case), x, gamma, beta, residual, dy)
    for case in KERNELS:
        w, dw_hat = (make(case.shape) for _ in range(2))
        gain = make([np.prod([case.shape[i] for i in case.axis])], parameter_dtype)
        yield from call(functools.partial(standardize_weights, case), w, gain, dw_hat)


def digest(call):
    """One hash over all results of all types."""
    bits = hashlib.sha256()
    for dtype in DTYPES:
        for tensor in results(dtype, call):
            bits.update(tensor.numpy().tobytes())
    return bits.hexdigest()


def from_threads(call):
    """Digests of the calls of several Python threads at once."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return [future.result() for future in [pool.submit(digest, call) for _ in range(4)]]


@pytest.mark.slow
@pytest.mark.parametrize("call", [eagerly, under_jit])
def test_repeated_calls(call):
    assert digest(call) == digest(call)


@pytest.mark.heavy
@pytest.mark.parametrize("call", [eagerly, under_jit])
def test_twenty_calls(call):
    assert len({digest(call) for _ in range(20)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("call", [eagerly, under_jit])
def test_calls_from_several_python_threads(call):
    assert set(from_threads(call)) == {digest(call)}


def test_any_number_of_threads_with_and_without_op_determinism(run_python):
    digests = set()
    for threads in (1, 3, 8):
        deterministic = "tf.config.experimental.enable_op_determinism()" if threads > 2 else ""
        run = run_python(
            f"""
import sys
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads({threads})
{deterministic}
sys.path.insert(0, {__file__.rpartition("/")[0]!r})
import test_determinism as test
print(test.digest(test.eagerly), test.digest(test.under_jit))
""",
            PYTHONPATH=python_path(SUPPORT),
        )
        assert run.returncode == 0, run.stderr
        digests.update(run.stdout.split())
    assert len(digests) == 1, digests


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_denormal_numbers_on_any_thread(dtype):
    """TensorFlow flushes them to 0 on its own threads and on the one that calls an op eagerly."""
    tiny = 2.0**-1030 if dtype == "float64" else 2.0**-130
    x = tf.cast(np.random.default_rng(0).normal(size=(64, 56, 56, 2)) * tiny, dtype)
    dy = tf.ones_like(x) * x

    @tf.function(autograph=False)
    def traced(x):
        return tfgn.group_norm(x, residual=x, groups=1)

    np.testing.assert_array_equal(tfgn.group_norm(x, residual=x, groups=1), traced(x))
    compiled = tf.function(traced.python_function, jit_compile=True, autograph=False)
    np.testing.assert_array_equal(compiled(x), traced(x))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tfgn.group_norm(x, residual=x, groups=1)
    np.testing.assert_array_equal(tape.gradient(y, x, dy), np.zeros(x.shape))


def test_calls_from_many_threads_at_once():
    """More concurrent calls than the pool has threads, each of which wants all of them."""
    x = tf.cast(np.random.default_rng(0).normal(size=(4, 56, 56, 64)), tf.float32)
    expected = tfgn.group_norm(x, groups=32)

    @tf.function(autograph=False)
    def many(x):
        return [tfgn.group_norm(x + 0.0, groups=32) for _ in range(32)]

    for _ in range(5):
        for y in many(x):
            np.testing.assert_array_equal(y, expected)
