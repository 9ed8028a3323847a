"""The tensors and the axis that GroupNormalization takes, and what it says to others."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_groupnorm.layers import GroupNormalization


def images(shape=(2, 6, 5, 16), seed=0):
    return tf.cast(np.random.default_rng(seed).normal(0.5, 2, shape), "float32")


@pytest.mark.parametrize(
    "residual, message",
    [
        (tf.zeros([2, 6, 5, 8]), r"`residual`.*\(2, 6, 5, 16\).*\(2, 6, 5, 8\)"),
        (tf.zeros([2, 6, 16]), r"`residual`.*\(2, 6, 5, 16\).*\(2, 6, 16\)"),
        (tf.zeros([1, 6, 5, 32]), r"`residual`.*\(2, 6, 5, 16\).*\(1, 6, 5, 32\)"),
    ],
)
def test_residual_of_another_shape(residual, message):
    with pytest.raises(ValueError, match=message):
        GroupNormalization(4)(images(), residual=residual)
    symbolic = keras.Input(residual.shape[1:], dtype=residual.dtype.name)
    with pytest.raises(ValueError, match="`residual`"):
        GroupNormalization(4)(keras.Input((6, 5, 16)), residual=symbolic)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize(
    "small", [(1, 6, 5, 16), (2, 1, 1, 16), (1, 1, 1, 16), (2, 6, 5, 1), (1, 1, 1, 1)]
)
def test_residual_that_broadcasts(axis, small):
    x, residual, dy = images(), images(small, seed=2), images(seed=3)
    if axis == 1:
        x, residual, dy = (tf.transpose(t, [0, 3, 1, 2]) for t in (x, residual, dy))
    layer = GroupNormalization(4, axis=axis, activation="silu")
    results = []
    for given in (lambda: residual, lambda: tf.broadcast_to(residual, x.shape)):
        with tf.GradientTape() as tape:
            tape.watch([x, residual])
            y = layer(x, residual=given())
        results.append([y, *tape.gradient(y, [x, residual], dy)])
    for actual, expected in zip(*results, strict=True):
        assert actual.shape == expected.shape
        np.testing.assert_array_equal(actual, expected)


def test_residual_that_broadcasts_to_unknown_sizes():
    inputs, residual = keras.Input((None, None, 16)), keras.Input((1, 1, 16))
    model = keras.Model([inputs, residual], GroupNormalization(4)(inputs, residual=residual))
    assert model.output_shape == (None, None, None, 16)
    x, r = images(), images((2, 1, 1, 16))
    np.testing.assert_allclose(tf.function(model)([x, r]), GroupNormalization(4)(x) + r, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 4, -4, -5])
def test_axis_that_is_no_channel_axis(axis):
    message = rf"`axis` must be an axis of the inputs other than the batch axis 0.*axis={axis} for"
    for x in (images(), keras.Input((6, 5, 16))):
        with pytest.raises(ValueError, match=message):
            GroupNormalization(2, axis=axis)(x)


@pytest.mark.parametrize("axis", [[1, 3], (3,), None, 3.0])
def test_axis_is_one_int(axis):
    with pytest.raises(ValueError, match="`axis` must be an int, the one channel axis"):
        GroupNormalization(2, axis=axis)


@pytest.mark.parametrize("pack", [list, tuple, lambda xs: {"a": xs[0], "b": xs[1]}])
def test_several_inputs_are_refused(pack):
    for x in (images(), keras.Input((6, 5, 16))):
        with pytest.raises(ValueError, match=r"takes one tensor.*norm\(x, residual=r\)"):
            GroupNormalization(4)(pack([x, x]))
        with pytest.raises(ValueError, match="takes one tensor"):
            GroupNormalization(4).call(pack([x, x]))


def test_ragged_and_sparse_tensors_are_refused():
    ragged = tf.RaggedTensor.from_tensor(images((2, 5, 16)), lengths=[2, 4])
    for x in (ragged, keras.Input((None, 16), ragged=True)):
        with pytest.raises(ValueError, match=r"no ragged tensor.*to_tensor\(\).*use_mask=True"):
            GroupNormalization(4)(x)
    sparse = tf.sparse.from_dense(images((2, 16)))
    for x in (sparse, keras.Input((16,), sparse=True)):
        with pytest.raises(ValueError, match=r"no sparse tensor.*tf.sparse.to_dense"):
            GroupNormalization(4)(x)
    for residual in (ragged, keras.Input((None, 16), ragged=True)):
        with pytest.raises(ValueError, match=r"`residual` must be a dense tensor: `to_tensor\(\)`"):
            GroupNormalization(4)(images((2, 4, 16)), residual=residual)


def test_a_residual_is_a_tensor():
    with pytest.raises(ValueError, match=r"`residual` must have the shape.*shape=\(\)"):
        GroupNormalization(4)(images(), residual=1.0)
