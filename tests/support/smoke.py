"""What an installation must do: `python -I smoke.py`, in an environment without pytest.

Compares the fused ops with stock ones. Its last line is what `tfgn info` tells, as JSON.
"""

import json
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow_groupnorm import _library
from tfgn_study import environment

RNG = np.random.default_rng(0)
OPTIONS = {"groups": 4, "activation": "silu"}


def random(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


X, GAMMA, BETA, SIDE, DY = random(2, 9, 7, 12), random(12), random(12), *random(2, 2, 9, 7, 12)
KERNEL, GAIN = random(3, 3, 12, 5), random(5)


def results(library):
    """Outputs and gradients of both ops; `library` is the package, or its stock ops."""
    sources = [X, GAMMA, BETA, SIDE, KERNEL, GAIN]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y = library.group_norm(X, GAMMA, BETA, residual=SIDE, **OPTIONS)
        kernel = library.standardize_weights(KERNEL, GAIN)
        total = tf.reduce_sum(y * DY) + tf.reduce_sum(kernel * KERNEL)
    return [y, kernel, *tape.gradient(total, sources)]


def assert_near(actual, expected):
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        tf.debugging.assert_near(a, b, rtol=1e-4, atol=1e-4)


def model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            tfgn.layers.StandardizedConv2D(8, 3, use_bias=False),
            tfgn.layers.GroupNormalization(groups=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )


def check_training(jit_compile):
    x = np.asarray(random(32, 8, 8, 3))
    y = (x.mean(axis=(1, 2, 3)) > 0).astype("int32")
    trained = model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(0.02), loss, jit_compile=jit_compile)
    losses = trained.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0], losses
    assert trained.jit_compile == jit_compile
    return trained, x


def check_saving(trained, x):
    expected = trained(x)
    with tempfile.TemporaryDirectory() as folder:
        trained.save(Path(folder, "model.keras"))
        assert_near(keras.saving.load_model(Path(folder, "model.keras"))(x), expected)
        trained.export(Path(folder, "saved_model"), verbose=False)
        served = tf.saved_model.load(Path(folder, "saved_model"))
        assert_near(served.serve(x), expected)
        graph = served.signatures["serving_default"].graph
        library = graph.as_graph_def().library.function
        ops = {node.op for function in library for node in function.node_def}
        ops |= {operation.type for operation in graph.get_operations()}
    assert {"GroupNorm", "StandardizeWeights"} <= ops, ops


def main():
    assert _library.load() is not None, _library.load_error()
    expected = results(tfgn.stock)
    assert_near(results(tfgn), expected)
    assert_near(tf.function(results)(tfgn), expected)
    supports_jit = _library.xla_error() is None
    assert tfgn.layers.GroupNormalization(2).supports_jit == supports_jit
    if supports_jit:
        assert_near(tf.function(results, jit_compile=True)(tfgn), expected)
    check_saving(*check_training(jit_compile=supports_jit))
    print(json.dumps(environment.collect()))


if __name__ == "__main__":
    main()
