"""Slices of one tensor that an ONNX file has as one Split."""

from collections import Counter

import export_models
import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from export_runtimes import RUN, check
from onnx import helper, numpy_helper
from tensorflow_groupnorm._export import onnx_graph

LAST = 2**63 - 1


def constant(name, values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model_of(shape, slices, unknown_start=False, readers=()):
    """A model that returns slices of its input.

    Args:
        shape: of the input; text for a size that is not known.
        slices: for each output the starts, ends and, if it has them, axes and steps.
        unknown_start: whether the start of the last slice is an input with a default.
        readers: further nodes.
    """
    nodes, bounds = [], []
    for i, given in enumerate(slices):
        names = [f"{i}/{kind}" if values else "" for kind, values in enumerate(given)]
        bounds += [
            constant(name, values) for name, values in zip(names, given, strict=True) if name
        ]
        nodes.append(helper.make_node("Slice", ["x", *names], [f"y{i}"], f"slice{i}"))
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)]
    if unknown_start:
        name = f"{len(slices) - 1}/0"
        bounds = [bound for bound in bounds if bound.name != name]
        inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]))
    outputs = [name for node in [*nodes, *readers] for name in node.output]
    graph = helper.make_graph(
        [*nodes, *readers],
        "model",
        inputs,
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        bounds,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    # Runtimes need the types of outputs.
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return model


def merged(model):
    """A copy of a model with its slices merged."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    onnx_graph.merge_slices(copy)
    onnx.checker.check_model(copy)
    return copy


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


MERGED = {
    "scale and shift of any number of samples": (
        ("batch", 8),
        [([0, 0], [LAST, 4], [0, 1]), ([0, 4], [2**31 - 1, LAST], [0, 1])],
        [4, 4],
    ),
    "queries, keys and values in another order": (
        (2, 5, 9),
        [([6], [9], [-1], [1]), ([0], [2], [2], [1]), ([2], [6], [-1], [1])],
        [2, 4, 3],
    ),
    "bounds from the end": ((2, 8), [([0], [-3], [1]), ([-3], [LAST], [1])], [5, 3]),
    "bounds beyond the ends": ((2, 8), [([-99], [3], [1]), ([3], [99], [1])], [3, 5]),
    "all axes, as none is named": (
        (6, 2),
        [([0, 0], [1, 2]), ([1, 0], [6, 2], [], [1, 1])],
        [1, 5],
    ),
}


@pytest.mark.parametrize("case", MERGED)
def test_slices_that_cover_an_axis_become_a_split(case, tmp_path):
    shape, slices, sizes = MERGED[case]
    model = model_of(shape, slices)
    split = merged(model)
    (node,) = split.graph.node
    assert node.op_type == "Split"
    (initializer,) = split.graph.initializer
    assert numpy_helper.to_array(initializer).tolist() == sizes
    x = random(*(3 if isinstance(size, str) else size for size in shape))
    for runtime in ("onnx", "openvino"):
        outputs = []
        for name, content in (("slices", model), ("split", split)):
            onnx.save(content, tmp_path / f"{name}.onnx")
            outputs.append(RUN[runtime](tmp_path / f"{name}.onnx", {"x": x}))
        for i in range(len(slices)):
            np.testing.assert_array_equal(outputs[1][f"y{i}"], outputs[0][f"y{i}"])


LEFT = {
    "overlap": ((2, 8), [([0], [5], [1]), ([4], [8], [1])]),
    "twice the same": ((2, 8), [([0], [4], [1]), ([4], [8], [1]), ([4], [8], [1])]),
    "gap between": ((2, 8), [([0], [3], [1]), ([4], [8], [1])]),
    "gap at the start": ((2, 8), [([1], [3], [1]), ([3], [8], [1])]),
    "gap at the end": ((2, 8), [([0], [3], [1]), ([3], [7], [1])]),
    "empty piece": ((2, 8), [([0], [4], [1]), ([4], [4], [1]), ([4], [8], [1])]),
    "another axis": ((8, 8), [([0], [4], [1]), ([4], [8], [0])]),
    "two axes": ((8, 8), [([0, 0], [4, 4], [0, 1]), ([0, 4], [4, 8], [0, 1])]),
    "strided": ((2, 8), [([0], [8], [1], [2]), ([1], [8], [1], [2])]),
    "backwards": ((2, 8), [([3], [-LAST], [1], [-1]), ([7], [3], [1], [-1])]),
    "size of the axis not known": ((2, "n"), [([0], [4], [1]), ([4], [LAST], [1])]),
    "one slice": ((2, 8), [([0], [4], [1])]),
    "all of it, twice": ((2, 8), [([0], [LAST], [1]), ([0], [8], [1])]),
}


@pytest.mark.parametrize("case", LEFT)
def test_other_slices_are_left_alone(case):
    model = model_of(*LEFT[case])
    assert merged(model) == model


def test_bounds_that_are_not_constants_are_left_alone():
    model = model_of((2, 8), [([0], [4], [1]), ([4], [8], [1])], unknown_start=True)
    assert merged(model) == model


def test_one_axis_of_several_is_split():
    model = model_of((4, 8), [([0], [4], [1]), ([0], [2], [0]), ([4], [8], [1])])
    split = merged(model)
    assert [node.name for node in split.graph.node] == ["slice0", "slice1"]
    assert kinds(split) == {"Split": 1, "Slice": 1}
    assert list(split.graph.node[0].output) == ["y0", "y2"]


def test_bounds_that_others_read_are_kept():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["1/0"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", onnx.TensorProto.INT64, [1])],
    )
    condition = helper.make_node(
        "Constant", [], ["c"], value=helper.make_tensor("c", onnx.TensorProto.BOOL, [], [True])
    )
    choice = helper.make_node("If", ["c"], ["v"], then_branch=branch, else_branch=branch)
    slices = [([0], [4], [1]), ([4], [8], [1])]
    split = merged(model_of((2, 8), slices, readers=[condition, choice]))
    assert kinds(split) == {"Split": 1, "Constant": 1, "If": 1}
    assert {initializer.name for initializer in split.graph.initializer} == {"1/0", "y0/sizes"}


@pytest.mark.parametrize(("target", "batch"), [("onnx", None), ("openvino", 2)])
def test_model_whose_tensors_are_sliced(target, batch, tmp_path):
    x, condition = keras.Input((16, 6), name="x"), keras.Input((5,), name="condition")

    def build():
        both = keras.layers.Dense(12)(condition)
        y = tfgn.layers.GroupNormalization(2)(x, scale=both[:, :6], shift=both[:, 6:])
        y = keras.layers.Dense(24)(y)
        queries, keys, values = y[..., :8], y[..., 8:16], y[..., 16:]
        weights = keras.ops.softmax(queries @ keras.ops.transpose(keys, (0, 2, 1)))
        return keras.Model([x, condition], weights @ values)

    model = export_models.built(build)
    specs = [tf.TensorSpec([batch, *y.shape[1:]], name=y.name) for y in model.inputs]
    exported = tfgn.export(model, tmp_path / "model.onnx", target=target, input_signature=[specs])
    found = kinds(onnx.load(exported.path))
    assert (found["Split"], found["Slice"], len(exported.fused)) == (2, 0, 1)
    runtime = "openvino" if target == "openvino" else "onnx"
    check(model, exported.path, runtime, [[random(2, 16, 6), random(2, 5)]], 1e-4)
