"""Every malformed call of every op raises an error that names the argument at fault.

An eager call raises InvalidArgumentError from the kernel. In a graph the shape function raises,
which TensorFlow turns into a ValueError; if shapes are unknown until run time, the kernel does.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn

# A valid call of each op: inputs by shape and attributes. A list of shapes is a list of inputs.
GROUP_NORM = {"x": [2, 3, 5, 8], "gamma": [8], "beta": [8], "side_input": [], "groups": 4}
GROUP_NORM_GRAD = {"dy": [2, 3, 5, 8], **GROUP_NORM, "mean": [2, 4], "rstd": [2, 4], "rest": []}
STANDARDIZE = {"w": [3, 3, 4, 8], "gain": [8], "Tout": "float32"}
STANDARDIZE_GRAD = {
    "dw_hat": [3, 3, 4, 8],
    "w": [3, 3, 4, 8],
    "gain": [8],
    "mean": [8],
    "rstd": [8],
}

# Changes to a valid call, and what the error must say: the argument, what was expected and the
# value.
ANY_GROUP_NORM = [
    ({"x": []}, ["x must have", "rank 2 or more", "[]"]),
    ({"x": [8]}, ["x must have", "rank 2 or more", "[8]"]),
    ({"groups": 0}, ["groups", "at least 1", "is 0"]),
    ({"groups": -1}, ["groups", "at least 1", "is -1"]),
    ({"groups": -(2**63)}, ["groups", "at least 1", "is -9223372036854775808"]),
    ({"groups": 3}, ["groups", "divide the 8 channels", "is 3"]),
    ({"groups": 16}, ["groups", "divide the 8 channels", "is 16"]),
    ({"groups": 2**62}, ["groups", "divide the 8 channels", "is 4611686018427387904"]),
    ({"axis": 0}, ["axis", "[1, 3] or [-3, -1]", "is 0", "[2,3,5,8]"]),
    ({"axis": -4}, ["axis", "[1, 3] or [-3, -1]", "is -4"]),
    ({"axis": 4}, ["axis", "[1, 3] or [-3, -1]", "is 4"]),
    ({"axis": -(2**63)}, ["axis", "[1, 3]", "is -9223372036854775808"]),
    ({"axis": 2**63 - 1}, ["axis", "[1, 3]", "is 9223372036854775807"]),
    ({"activation": "gelu"}, ["activation", "linear", "relu", "silu", "gelu"]),
    ({"activation": ""}, ["activation", "linear", "relu", "silu"]),
    ({"activation": "relu\0"}, ["activation", "linear", "relu", "silu"]),
    ({"side_input": [[2, 3, 5, 7]]}, ["side_input", "[2,3,5,8]", "[2,3,5,7]"]),
    ({"side_input": [[8]]}, ["side_input", "[2,3,5,8]", "[8]"]),
    ({"side_input": [[]]}, ["side_input", "[2,3,5,8]", "[]"]),
    ({"side_input": [[2, 3, 5, 8]] * 2}, ["num_side_inputs", "0 or 1", "is 2"]),
    ({"side_input": [[2, 3, 5, 8]] * 9}, ["num_side_inputs", "0 or 1", "is 9"]),
    *(
        ({name: shape}, [name, "[C] = [8]", "[N,C] = [2,8]", "[0]", str(shape).replace(" ", "")])
        for name in ("gamma", "beta")
        for shape in ([], [7], [1], [1, 8], [2, 1], [8, 2], [3, 8], [2, 4], [0, 8], [2, 8, 1])
    ),
]
INVALID = {
    "GroupNorm": (
        GROUP_NORM,
        ANY_GROUP_NORM
        + [
            ({"epsilon": -1e-3}, ["epsilon", "not negative", "is -0.001"]),
            ({"epsilon": float("nan")}, ["epsilon", "finite", "nan"]),
            ({"epsilon": float("inf")}, ["epsilon", "finite", "inf"]),
            ({"with_rest": 2}, ["with_rest", "0 or 1", "is 2"]),
            ({"with_rest": 7}, ["with_rest", "0 or 1", "is 7"]),
        ],
    ),
    "GroupNormGrad": (
        GROUP_NORM_GRAD,
        [
            (change | {"dy": change["x"]} if "x" in change else change, m)
            for change, m in ANY_GROUP_NORM
        ]
        + [
            ({"dy": [2, 3, 5, 7]}, ["dy", "[2,3,5,8]", "[2,3,5,7]"]),
            ({"dy": []}, ["dy", "[2,3,5,8]", "[]"]),
            *(
                ({name: shape}, [name, "[N,groups] = [2,4]", str(shape).replace(" ", "")])
                for name in ("mean", "rstd")
                for shape in ([], [8], [0], [2, 8], [4, 2], [1, 4], [2, 4, 1])
            ),
            *(
                ({"rest": [shape]} | more, ["rest", "[N,2,groups] = [2,2,4]", text])
                for shape in ([], [0], [2, 4], [2, 4, 2], [2, 3, 4], [1, 2, 4], [2, 2, 4, 1])
                for text in [str(shape).replace(" ", "")]
                for more in ({}, {"side_input": [[2, 3, 5, 8]], "with_y": 1})
            ),
            ({"rest": [[2, 2, 4]] * 2}, ["num_rests", "0 or 1", "is 2"]),
            ({"rest": [[2, 2, 4]] * 9}, ["num_rests", "0 or 1", "is 9"]),
            ({"with_y": 2}, ["with_y", "0 or 1", "is 2"]),
            ({"with_y": 7}, ["with_y", "0 or 1", "is 7"]),
        ],
    ),
}
ANY_STANDARDIZE = [
    ({"axis": []}, ["axis", "at least one", "[]"]),
    ({"axis": [4]}, ["axis", "[-4, 3]", "4", "[3,3,4,8]"]),
    ({"axis": [-5]}, ["axis", "[-4, 3]", "-5"]),
    ({"axis": [3, 2**62]}, ["axis", "[-4, 3]", "4611686018427387904"]),
    ({"axis": [-(2**63)]}, ["axis", "[-4, 3]", "-9223372036854775808"]),
    ({"axis": [3, 3]}, ["axis", "twice", "3"]),
    ({"axis": [3, -1]}, ["axis", "twice", "-1"]),
    ({"axis": [3] * 1000}, ["axis", "twice", "3"]),
    ({"epsilon": -1e-5}, ["epsilon", "not negative", "is -1e-05"]),
    ({"epsilon": float("nan")}, ["epsilon", "finite", "nan"]),
    ({"epsilon": float("inf")}, ["epsilon", "finite", "inf"]),
    ({"epsilon_mode": "add"}, ["epsilon_mode", "add_to_variance", "clamp_variance", '"add"']),
    ({"ddof": -1}, ["ddof", "0 or 1", "is -1"]),
    ({"ddof": 2}, ["ddof", "0 or 1", "is 2"]),
    ({"scale": float("nan")}, ["scale", "finite", "nan"]),
    ({"scale": float("-inf")}, ["scale", "finite", "-inf"]),
    *(
        ({"gain": shape}, ["gain", "[O] = [8]", "[0]", str(shape).replace(" ", "")])
        for shape in ([], [7], [1], [1, 8], [8, 1], [4])
    ),
    ({"axis": [2, 3]}, ["[O] = [32]", "[8]"]),
]
INVALID["StandardizeWeights"] = (
    STANDARDIZE,
    ANY_STANDARDIZE + [({"w": []}, ["axis", "-1", "[]"])],
)
INVALID["StandardizeWeightsGrad"] = (
    STANDARDIZE_GRAD,
    ANY_STANDARDIZE
    + [
        ({"dw_hat": [3, 3, 8, 4]}, ["dw_hat", "[3,3,4,8]", "[3,3,8,4]"]),
        ({"dw_hat": []}, ["dw_hat", "[3,3,4,8]", "[]"]),
        *(
            ({name: shape}, [name, "[O] = [8]", str(shape).replace(" ", "")])
            for name in ("mean", "rstd")
            for shape in ([], [0], [7], [1, 8], [32])
        ),
    ],
)
CALLS = [
    pytest.param(op, valid | change, message, id=f"{op}-{i}")
    for op, (valid, changes) in INVALID.items()
    for i, (change, message) in enumerate(changes)
]
LISTS = ("side_input", "rest")
TENSORS = ("x", "gamma", "beta", "dy", "mean", "rstd", "w", "gain", "dw_hat")


def call(op, arguments, make_tensor):
    arguments = dict(arguments)
    for name in TENSORS:
        if name in arguments:
            arguments[name] = make_tensor(arguments[name])
    for name in LISTS:
        if name in arguments:
            arguments[name] = [make_tensor(shape) for shape in arguments[name]]
    return getattr(tfgn.raw_ops, op)(**arguments)


def assert_says(error, message):
    for part in message:
        assert part in str(error)


@pytest.mark.parametrize("op", INVALID)
def test_what_the_tables_start_from_is_valid(op):
    arguments = INVALID[op][0]
    output, *_ = tf.nest.flatten(call(op, arguments, tf.ones))
    assert output.shape == next(iter(arguments.values()))


@pytest.mark.parametrize("op, arguments, message", CALLS)
def test_eager(op, arguments, message):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        call(op, arguments, tf.ones)
    assert_says(error.value, message)


@pytest.mark.parametrize("op, arguments, message", CALLS)
def test_graph_construction(op, arguments, message):
    with tf.Graph().as_default(), pytest.raises(ValueError) as error:
        call(op, arguments, lambda shape: tf.compat.v1.placeholder("float32", shape))
    assert_says(error.value, message)


@pytest.mark.parametrize("op, arguments, message", CALLS)
def test_shapes_known_only_at_run_time(op, arguments, message):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        feed = {}

        def placeholder(shape):
            tensor = tf.compat.v1.placeholder("float32")
            feed[tensor] = np.ones(shape, "float32")
            return tensor

        try:
            outputs = call(op, arguments, placeholder)
        except ValueError as error:  # an attribute wrong for any shape
            assert_says(error, message)
            return
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            session.run(outputs, feed)
    assert_says(error.value, message)


@pytest.mark.parametrize("op, arguments, message", CALLS)
def test_shapes_known_only_when_xla_compiles(op, arguments, message):
    shapes = [arguments[name] for name in TENSORS if name in arguments]
    shapes += [shape for name in LISTS for shape in arguments.get(name, [])]

    @tf.function(
        jit_compile=True, autograph=False, input_signature=[tf.TensorSpec(None)] * len(shapes)
    )
    def compute(*tensors):
        tensors = iter(tensors)
        return call(op, arguments, lambda shape: next(tensors))

    # A ValueError for an attribute that is wrong for any shape.
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)) as error:
        compute(*map(tf.ones, shapes))
    assert_says(error.value, message)


MIXED_TYPES = [
    ("GroupNorm", {"x": "float64"}, ["U must be double", "U is float"]),
    ("GroupNorm", {"gamma": "float64", "beta": "float64"}, ["U must be double", "U is double"]),
    (
        "GroupNorm",
        {"x": "float16", "gamma": "float64", "beta": "float64"},
        ["U must be double", "U is double"],
    ),
    ("GroupNormGrad", {"x": "float64", "dy": "float64"}, ["U must be double", "U is float"]),
    ("StandardizeWeights", {"w": "float64", "Tout": "float64"}, ["U must be double"]),
    ("StandardizeWeights", {"gain": "float64"}, ["U must be double", "U is double"]),
    ("StandardizeWeights", {"Tout": "float64"}, ["Tout must be double", "Tout is"]),
    ("StandardizeWeights", {"w": "float64", "gain": "float64"}, ["Tout must be double"]),
    ("StandardizeWeightsGrad", {"dw_hat": "float64"}, ["Tout must be double"]),
]


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("op, types, message", MIXED_TYPES)
def test_types_that_do_not_go_together(op, types, message, graph):
    arguments = dict(INVALID[op][0])
    for name in TENSORS:
        if name in arguments:
            arguments[name] = np.ones(arguments[name], types.get(name, "float32"))
    arguments |= {name: types[name] for name in ("Tout",) if name in types}
    error_type = ValueError if graph else tf.errors.InvalidArgumentError
    with tf.Graph().as_default() if graph else tf.device(None), pytest.raises(error_type) as error:
        getattr(tfgn.raw_ops, op)(**arguments)
    assert_says(error.value, message)


@pytest.mark.parametrize(
    "op, arguments, error",
    [
        # More statistics than an int64 counts, of tensors without elements.
        (
            "GroupNorm",
            GROUP_NORM | {"x": [2**40, 0, 2**40], "gamma": [0], "beta": [0], "groups": 2**40},
            tf.errors.InvalidArgumentError,
        ),
        (
            "StandardizeWeights",
            STANDARDIZE | {"w": [2**40, 0, 2**40], "gain": [0], "axis": [0, 2]},
            tf.errors.ResourceExhaustedError,
        ),
    ],
)
def test_more_statistics_than_there_can_be(op, arguments, error):
    with pytest.raises(error):
        call(op, arguments, tf.zeros)
    made = {
        tuple(arguments[name]): tf.zeros(arguments[name]) for name in arguments if name in TENSORS
    }

    @tf.function(jit_compile=True, autograph=False)
    def compiled():
        return call(op, arguments, lambda shape: made[tuple(shape)])

    # XLA refuses a shape of so many elements, where the executor fails to allocate it.
    with pytest.raises((error, tf.errors.InvalidArgumentError)):
        compiled()


@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": 3},
        {"axis": 0},
        {"activation": "gelu"},
        {"gamma": np.ones(7)},
        {"epsilon": -1.0},
    ],
)
def test_the_function_raises_the_error_of_the_op(arguments):
    x = tf.ones([2, 3, 5, 8])
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{next(iter(arguments))}.* must"):
        tfgn.group_norm(x, **{"groups": 2} | arguments)
