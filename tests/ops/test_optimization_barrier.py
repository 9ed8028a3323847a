"""OptimizationBarrier: a tensor that is there once another one is, and is computed with anew."""

import cases
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow.python.eager import context
from tensorflow_groupnorm import ops
from tensors import random
from test_xla_ops import TARGET, optimized_hlo


@pytest.fixture(params=["eager", "graph", "jit"])
def call(request):
    """Calls a function in one way."""
    if request.param == "eager":
        return lambda f, *arguments: f(*arguments)
    return lambda f, *arguments: tf.function(
        f, jit_compile=request.param == "jit", autograph=False
    )(*arguments)


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
@pytest.mark.parametrize("dtype", [*cases.ELEMENT_TYPES, "int32", "bool"])
def test_it_is_the_identity(call, dtype, shape):
    x = tf.cast(random(np.random.default_rng(0), shape) > 0, dtype)
    for after in (x, tf.constant(1.0, tf.bfloat16), tf.constant(True), tf.zeros([0])):
        y = call(ops.optimization_barrier, x, after)
        assert y.dtype == x.dtype and y.shape == x.shape
        np.testing.assert_array_equal(tf.cast(y, "float64"), tf.cast(x, "float64"))


def test_it_copies_nothing():
    x = tf.random.normal([100])
    y = ops.optimization_barrier(x, tf.zeros([]))
    assert np.asarray(memoryview(y)).ctypes.data == np.asarray(memoryview(x)).ctypes.data


def test_the_gradient_flows_to_x_only(call):
    x, after = tf.constant([1.0, 2.0]), tf.constant([3.0])

    def gradients(x, after):
        with tf.GradientTape() as tape:
            tape.watch([x, after])
            y = ops.optimization_barrier(x * x, after) ** 2
        return tape.gradient(y, [x, after], unconnected_gradients="zero")

    of_x, of_after = call(gradients, x, after)
    np.testing.assert_array_equal(of_x, 4 * x**3)
    np.testing.assert_array_equal(of_after, [0])


def test_the_shape_is_that_of_x():
    with tf.Graph().as_default():
        after = tf.compat.v1.placeholder("int64")
        for shape in (None, [], [None, 3], [2, 3]):
            x = tf.compat.v1.placeholder("float32", shape)
            y = ops.optimization_barrier(x, after)
            assert (y.shape.rank is None) == (shape is None)
            assert y.shape.rank is None or y.shape.as_list() == shape


def two_kernels(barrier):
    """Two convolutions with the same standardized kernel, the second one of the first."""

    def compute(w, x):
        y = tf.nn.conv2d(x, tfgn.standardize_weights(w), 1, "SAME")
        again = tfgn.standardize_weights(ops.optimization_barrier(w, y) if barrier else w)
        return tf.nn.conv2d(tf.nn.relu(y), again, 1, "SAME")

    return compute


def kernel_and_image():
    rng = np.random.default_rng(0)
    return random(rng, (3, 3, 8, 8), "float32"), random(rng, (2, 6, 6, 8), "float32")


@pytest.mark.parametrize("barrier", [False, True])
def test_xla_does_not_merge_what_is_behind_it(barrier):
    hlo = optimized_hlo(two_kernels(barrier), *kernel_and_image())
    assert hlo.count(TARGET.format("StandardizeWeights")) == 1 + barrier


@pytest.mark.parametrize("barrier", [False, True])
def test_grappler_does_not_merge_what_is_behind_it(barrier):
    function = tf.function(two_kernels(barrier), autograph=False)
    context.enable_run_metadata()
    try:
        function(*kernel_and_image())
        metadata = context.export_run_metadata()
    finally:
        context.disable_run_metadata()
    nodes = [node for graph in metadata.partition_graphs for node in graph.node]
    assert sum(node.op == "StandardizeWeights" for node in nodes) == 1 + barrier


def test_values_behind_it(call):
    arguments = kernel_and_image()
    expected = two_kernels(barrier=False)(*arguments)
    np.testing.assert_allclose(call(two_kernels(barrier=True), *arguments), expected, atol=1e-5)
