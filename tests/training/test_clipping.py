"""Adaptive gradient clipping, against equation 3 of arXiv:2102.06171 in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn

SHAPES = [(3, 3, 4, 6), (5, 7), (6,), (), (2, 3, 4), (0, 3)]


def clipped(gradient, weights, clipping, epsilon):
    gradient, weights = gradient.astype("float64"), weights.astype("float64")
    # A unit per row.
    rows = [
        x.reshape(-1, x.shape[-1]).T if x.ndim > 1 else x.reshape(1, -1)
        for x in (gradient, weights)
    ]
    result = []
    for g, w in zip(*rows, strict=True):
        limit = clipping * max(np.linalg.norm(w), epsilon)
        norm = np.linalg.norm(g)
        result.append(g * (limit / norm) if norm > limit else g)
    result = np.array(result).reshape(rows[0].shape)
    return (result.T if gradient.ndim > 1 else result).reshape(gradient.shape)


def draw(shape, dtype="float32", seed=0):
    """Gradients and weights whose units differ by orders of magnitude; some units are 0."""
    rng = np.random.default_rng(seed)

    def normal():
        of_units = 10.0 ** rng.uniform(-4, 2, shape[-1:]) * (rng.uniform(size=shape[-1:]) > 0.2)
        return np.asarray(rng.normal(size=shape) * of_units, dtype)

    return normal(), normal()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values(dtype, compiled):
    pairs = [draw(shape, dtype, seed) for seed in range(8) for shape in SHAPES]
    gradients, weights = ([tf.constant(x) for x in xs] for xs in zip(*pairs, strict=True))
    clip = (
        tf.function(tfgn.adaptive_grad_clip, jit_compile=True)
        if compiled
        else tfgn.adaptive_grad_clip
    )
    actual = clip(gradients, weights, 0.02, 1e-2)
    changed = 0
    for result, (gradient, weight) in zip(actual, pairs, strict=True):
        expected = clipped(gradient, weight, 0.02, 1e-2)
        assert result.dtype == dtype
        tolerance = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}[dtype]
        smallest = 6e-8 if dtype == "float16" else 0  # of the subnormal numbers
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=smallest)
        changed += not np.array_equal(expected, gradient)
    assert len(pairs) / 4 < changed < len(pairs)


def test_small_gradients_come_back_as_they_are():
    gradient, weights = draw((3, 3, 4, 6))
    weights += 1
    small = gradient * 1e-6
    (result,) = tfgn.adaptive_grad_clip([small], [weights])
    np.testing.assert_array_equal(result, small)


def test_missing_and_sparse_gradients():
    table = tf.Variable(tf.ones((4, 2)))
    with tf.GradientTape() as tape:
        loss = 100 * tf.reduce_sum(tf.gather(table, [1, 1, 3]))
    sparse = tape.gradient(loss, table)
    assert isinstance(sparse, tf.IndexedSlices)
    none, dense = tfgn.adaptive_grad_clip([None, sparse], [table, table], clipping=0.5)
    assert none is None
    # A column of 1s has the norm 2; its gradient is 200 and 100 in two rows.
    norm = np.hypot(200, 100)
    np.testing.assert_allclose(dense, np.outer([0, 200 / norm, 0, 100 / norm], [1, 1]), rtol=1e-6)


def test_optimizer_of_the_docstring():
    class SGD(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            variables = trainable_variables or self._trainable_variables
            super().apply(tfgn.adaptive_grad_clip(grads, variables), trainable_variables)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    model.compile(SGD(1.0), "mse")
    before = model.layers[0].kernel.numpy()
    model.fit(np.full((4, 3), 1e3, "float32"), np.zeros((4, 2), "float32"), verbose=0)
    step = np.linalg.norm(model.layers[0].kernel.numpy() - before, axis=0)
    np.testing.assert_allclose(step, 0.01 * np.linalg.norm(before, axis=0), rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([np.ones(2)], [np.ones(2)], 0), "`clipping` must be a finite number above 0.*clipping=0"),
        (([np.ones(2)], [np.ones(2)], 0.1, np.nan), "`epsilon` must be .*epsilon=nan"),
        (([np.ones(2)], []), "same length. Received: 1 gradients and 0 variables"),
        (
            ([np.ones(2)], [np.ones(3)]),
            r"gradients\[0\].shape=\(2,\) for variables\[0\].shape=\(3,\)",
        ),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfgn.adaptive_grad_clip(*arguments)
