"""What is left of a model when it is frozen."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def frozen(layer, shape):
    function = tf.function(lambda x: layer(x)).get_concrete_function(tf.TensorSpec(shape))
    return convert_variables_to_constants_v2(function)


def run_and_list_ops(function, x):
    """Returns the output of a graph and the kinds of ops that were executed."""
    v1 = tf.compat.v1
    options, metadata = v1.RunOptions(output_partition_graphs=True), v1.RunMetadata()
    with tf.Graph().as_default():
        tf.import_graph_def(function.graph.as_graph_def(), name="")
        with v1.Session() as session:
            y = session.run(
                function.outputs[0].name, {function.inputs[0].name: x}, options, metadata
            )
    return y, {node.op for graph in metadata.partition_graphs for node in graph.node}


@pytest.mark.parametrize("gain", [False, True])
def test_standardized_kernels_become_constants(gain):
    layer = tfgn.layers.StandardizedConv2D(8, 3, gain=gain)
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32)
    expected = layer(x)
    function = frozen(layer, x.shape)
    before = {node.op for node in function.graph.as_graph_def().node}
    y, executed = run_and_list_ops(function, x)
    assert "StandardizeWeights" in before
    assert "StandardizeWeights" not in executed
    np.testing.assert_array_equal(y, expected)
