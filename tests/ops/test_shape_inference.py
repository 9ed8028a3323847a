"""Shape inference of the ops, and calls whose shapes are unknown until run time."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn

LISTS = ("side_input", "rest")


def infer(op, inputs, **attrs):
    """The shapes of the outputs of a raw op for inputs of these shapes."""
    with tf.Graph().as_default():
        placeholders = tf.nest.map_structure(
            lambda shape: tf.compat.v1.placeholder("float32", shape),
            {name: tf.TensorShape(shape) for name, shape in inputs.items() if name not in LISTS},
        )
        placeholders |= {
            name: [tf.compat.v1.placeholder("float32", shape) for shape in inputs[name]]
            for name in LISTS
            if name in inputs
        }
        outputs = tf.nest.flatten(getattr(tfgn.raw_ops, op)(**placeholders, **attrs))
        return [None if t.shape.rank is None else t.shape.as_list() for t in outputs]


@pytest.mark.parametrize(
    "x, side_input, y, statistics",
    [
        ([2, 4, 4, 8], [], [2, 4, 4, 8], [2, 4]),
        ([None, None, 4, 8], [], [None, None, 4, 8], [None, 4]),
        ([2, 4, 4, None], [], [2, 4, 4, None], [2, 4]),
        (None, [], None, [None, 4]),
        ([None, 4, None, 8], [[2, None, None, 8]], [2, 4, None, 8], [2, 4]),
        (None, [[2, None, 8]], [2, None, 8], [2, 4]),
        ([2, None, 8], [None], [2, None, 8], [2, 4]),
    ],
)
def test_group_norm(x, side_input, y, statistics):
    inputs = {"x": x, "gamma": [0], "beta": None, "side_input": side_input}
    assert infer("GroupNorm", inputs, groups=4) == [y, statistics, statistics]
    with_rest = infer("GroupNorm", inputs, groups=4, with_rest=1)
    assert with_rest == [y, statistics, statistics, [statistics[0], 2, 4]]


@pytest.mark.parametrize(
    "dy, x, side_input, dx",
    [
        ([2, 4, 8], [2, 4, 8], [], [2, 4, 8]),
        (None, [None, 4, 8], [], [None, 4, 8]),
        ([2, None, None], [None, 4, None], [[None, None, 8]], [2, 4, 8]),
        (None, None, [None], None),
    ],
)
def test_group_norm_grad(dy, x, side_input, dx):
    inputs = {"dy": dy, "x": x, "gamma": [8], "beta": [None, 8], "mean": None, "rstd": [None, 4]}
    for rest in ([], [None], [[None, 2, None]]):
        lists = {"side_input": side_input, "rest": rest}
        for with_y in (0, 1):
            outputs = infer("GroupNormGrad", inputs | lists, groups=4, with_y=with_y)
            assert outputs == [dx, [8], [None, 8]] + [dx] * (len(side_input) + with_y)


@pytest.mark.parametrize(
    "w, axis, outputs",
    [
        ([3, 3, 4, 8], [-1], 8),
        ([3, 3, 4, 8], [2, 3], 32),
        ([None, None, 4, 8], [3], 8),
        ([3, 3, 4, None], [2, 3], None),
        (None, [-1], None),
    ],
)
def test_standardize_weights(w, axis, outputs):
    forward = infer("StandardizeWeights", {"w": w, "gain": [0]}, Tout="float32", axis=axis)
    assert forward == [w, [outputs], [outputs]]
    inputs = {"dw_hat": None, "w": w, "gain": [outputs], "mean": None, "rstd": [outputs]}
    assert infer("StandardizeWeightsGrad", inputs, axis=axis) == [w, [outputs]]
    inputs |= {"dw_hat": w, "w": None}
    assert infer("StandardizeWeightsGrad", inputs, axis=axis) == [w, [outputs]]


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        ("GroupNorm", {"x": None, "gamma": [8], "beta": [0], "side_input": [[]]}, "x must have"),
        (
            "GroupNorm",
            {"x": None, "gamma": [8], "beta": [0], "side_input": [[2, 7]]},
            "groups must",
        ),
        (
            "GroupNorm",
            {"x": [None, None], "gamma": [4], "beta": [8], "side_input": [[2, 8]]},
            "gamma must have",
        ),
        (
            "GroupNormGrad",
            {"dy": [], "x": None, "gamma": [8], "beta": [8], "mean": None, "rstd": None}
            | {"side_input": [], "rest": []},
            "x must have",
        ),
        (
            "GroupNormGrad",
            {"dy": [2, 8], "x": None, "gamma": [8], "beta": [8], "mean": None, "rstd": None}
            | {"side_input": [[3, 8]], "rest": []},
            "side_input must have",
        ),
        (
            "GroupNormGrad",
            {"dy": [2, 8], "x": None, "gamma": [8], "beta": [8], "mean": [3, 4], "rstd": None}
            | {"side_input": [], "rest": []},
            "mean must have",
        ),
        (
            "GroupNormGrad",
            {"dy": [2, 8], "x": None, "gamma": [8], "beta": [8], "mean": None, "rstd": None}
            | {"side_input": [], "rest": [[3, 2, 4]]},
            "rest must have",
        ),
    ],
)
def test_what_one_input_tells_of_another_is_checked(op, inputs, message):
    """A scalar beside an x of unknown shape once ended the process."""
    with pytest.raises(ValueError, match=message):
        infer(op, inputs, groups=4)


def test_what_the_gradient_tells_of_the_kernel_is_checked():
    inputs = {"dw_hat": [3, 4], "w": None, "gain": [5], "mean": None, "rstd": None}
    with pytest.raises(ValueError, match="gain must have"):
        infer("StandardizeWeightsGrad", inputs)
    inputs["dw_hat"] = []
    with pytest.raises(ValueError, match="axis must"):
        infer("StandardizeWeightsGrad", inputs)


def value_and_gradients(group_norm, x):
    """The value, and gradients of the first and the second order."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = group_norm(x, groups=2, activation="silu", residual=x)
            loss = tf.reduce_sum(tf.sin(y))
        first = inner.gradient(loss, x)
        loss = tf.reduce_sum(tf.sin(first))
    return y, first, outer.gradient(loss, x)


@pytest.mark.parametrize("shape", [[None, None, None, 4], [None, 2, None, None], None])
def test_group_norm_of_unknown_shape(shape):
    x = tf.cast(np.random.default_rng(0).normal(size=(5, 2, 3, 4)), tf.float32)
    function = tf.function(
        lambda x: value_and_gradients(tfgn.group_norm, x),
        input_signature=[tf.TensorSpec(shape, tf.float32)],
    )
    for inferred in function.get_concrete_function().output_shapes:
        assert (None if inferred.rank is None else inferred.as_list()) == shape
    expected = value_and_gradients(tfgn.stock.group_norm, x)
    for a, b in zip(function(x), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
