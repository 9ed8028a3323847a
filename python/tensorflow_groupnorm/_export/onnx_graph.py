"""Rewrites ONNX graphs that tf2onnx wrote."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

# Ends of slices from here on stand for the end of an axis, whatever its size.
_LARGEST_END = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A Slice that takes a range of one axis, and all of the others."""

    node: Any
    axis: int
    size: int
    start: int
    stop: int


def nodes(graph: Any) -> Iterator[Any]:
    """Yields the nodes of a graph and its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from nodes(inner)


def mend(model: Any) -> None:
    """Corrects in place what tf2onnx writes for some convolutions.

    tf2onnx writes a single group for every 3-D convolution, and expresses zeros to append after a
    transposed convolution as negative padding.
    """
    import onnx

    attributes = [{item.name: item for item in node.attribute} for node in model.graph.node]
    every = list(zip(model.graph.node, attributes, strict=True))
    kernels = {kernel.name: kernel.dims for kernel in model.graph.initializer}
    volumes = [
        (node, items)
        for node, items in every
        if node.op_type == "Conv" and len(kernels.get(node.input[1], ())) == 5
    ]
    channels = _channels(model) if volumes else {}
    for node, items in volumes:
        # Kernels are [output channels, input channels / groups, ...].
        per_group = kernels[node.input[1]][1]
        items["group"].i = channels.get(node.input[0], per_group) // per_group
    for node, items in every:
        # Begins, then ends.
        pads = list(items["pads"].ints) if "pads" in items else [0]
        if node.op_type == "ConvTranspose" and min(pads) < 0:
            padding = [max(-end, 0) for end in pads[len(pads) // 2 :]]
            items["pads"].ints[:] = [max(size, 0) for size in pads]
            node.attribute.append(onnx.helper.make_attribute("output_padding", padding))


def _channels(model: Any) -> dict[str, int]:
    """Returns the known sizes of axis 1 of 5-D tensors, by the names of the tensors."""
    sizes = {name: shape[1] for name, shape in _shapes(model).items() if len(shape) == 5}
    return {name: size for name, size in sizes.items() if size is not None}


def merge_slices(model: Any) -> None:
    """Writes in place as one Split the Slices that together make up a tensor.

    Keras slices scale and shift, or queries, keys and values, one by one. Slices are merged if they
    cover one axis without gaps or overlaps, in steps of 1, and if their bounds and the size of the
    axis are constants. Those in loops and branches are left alone.

    Args:
        model: an ONNX model of opset 18 or later.
    """
    graph = model.graph
    slices = collections.defaultdict(list)
    for node in graph.node:
        if node.op_type == "Slice" and not node.domain:
            slices[node.input[0]].append(node)
    if all(len(readers) == 1 for readers in slices.values()):
        return
    shapes = _shapes(model)
    constants = {constant.name: constant for constant in graph.initializer}
    bounds = {name for readers in slices.values() for node in readers for name in node.input[1:]}
    for tensor, readers in slices.items():
        pieces = collections.defaultdict(list)
        for node in readers:
            if tensor in shapes and (piece := _piece(node, shapes[tensor], constants)):
                pieces[piece.axis].append(piece)
        for of_axis in pieces.values():
            if _cover(of_axis):
                _split(graph, of_axis)
    _remove_unread(graph, bounds)


def _shapes(model: Any) -> dict[str, list[int | None]]:
    """Returns the shapes of tensors of known rank, with None for sizes that are not constants."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in nodes(copy.graph):
        if node.op_type == "GroupNormalization":  # Its shape is inferred only if it is constant.
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output))
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    types = {value.name: value.type.tensor_type for value in [*graph.value_info, *graph.input]}
    return {
        name: [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        for name, kind in types.items()
        if kind.HasField("shape")
    }


def _piece(node: Any, shape: list[int | None], constants: dict[str, Any]) -> _Piece | None:
    """Returns a Slice of a tensor as a piece of it, or None if it is not a constant one."""
    from onnx import numpy_helper

    names = [name for name in node.input[1:] if name]
    if not all(name in constants for name in names):
        return None
    # An absent input has no name, and stands for all axes or steps of 1.
    values: list[list[int]] = [
        numpy_helper.to_array(constants[name]).tolist() if name else [] for name in node.input[1:]
    ]
    starts, ends, axes, steps = [*values, [], []][:4]
    axes, steps = axes or [*range(len(starts))], steps or [1] * len(starts)
    cut = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis]
        if step == 1 and start == 0 and end >= _LARGEST_END:
            continue
        if step != 1 or size is None:
            return None
        start, stop, _ = slice(start, end).indices(size)
        if (start, stop) != (0, size):
            cut.append(_Piece(node, axis % len(shape), size, start, stop))
    return cut[0] if len(cut) == 1 else None


def _cover(pieces: list[_Piece]) -> bool:
    """Returns whether pieces along an axis are all of it, none is empty, and no two overlap."""
    ranges = sorted((piece.start, piece.stop) for piece in pieces)
    joints = [0, *(stop for _, stop in ranges)]
    return (
        joints[-1] == pieces[0].size
        and all(start == joint for (start, _), joint in zip(ranges, joints, strict=False))
        and all(start < stop for start, stop in ranges)
    )


def _split(graph: Any, pieces: list[_Piece]) -> None:
    """Replaces pieces, in the order of the graph, by a Split at the place of the first."""
    import onnx

    ordered = sorted(pieces, key=lambda piece: piece.start)
    outputs = [piece.node.output[0] for piece in ordered]
    sizes = np.array([piece.stop - piece.start for piece in ordered], np.int64)
    constant = onnx.numpy_helper.from_array(sizes, f"{outputs[0]}/sizes")
    graph.initializer.append(constant)
    first, *others = (piece.node for piece in pieces)
    for node in others:
        graph.node.remove(node)
    inputs = [first.input[0], constant.name]
    axis = pieces[0].axis
    first.CopyFrom(onnx.helper.make_node("Split", inputs, outputs, first.name, axis=axis))


def _remove_unread(graph: Any, constants: set[str]) -> None:
    """Removes those of some constants that no node reads."""
    read = {name for node in nodes(graph) for name in node.input}
    read |= {output.name for output in graph.output}
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name in constants - read:
            del graph.initializer[i]
