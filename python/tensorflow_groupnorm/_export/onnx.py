"""Converts a portable SavedModel to ONNX, and runs ONNX files."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from .errors import LOOKUPS, ExportError, first_line
from .graph import IDENTITIES, simplify
from .saved_model import ops

#: The newest opset that tf2onnx writes. GroupNorm is written with primitive ops: GroupNormalization
#: has a scale per group in opset 18, and a scale per channel only from opset 21 on.
OPSET = 18


def require() -> None:
    """Raises ImportError, with what to install, if a package that ONNX needs is missing."""
    missing = [
        name
        for name in ("onnx", "tf2onnx", "onnxruntime")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ImportError(
            f"format='onnx' needs {' and '.join(missing)}: "
            "pip install 'tensorflow-groupnorm[export]'"
        )


def convert(saved_model: Path, path: Path) -> None:
    """Writes an `.onnx` file whose inputs and outputs are named as in the signature.

    Args:
        saved_model: a SavedModel of stock ops with the signature `serving_default`. It is modified.
        path: the file to write.

    Raises:
        ExportError: if the model has an op that ONNX or ONNX Runtime does not support.
    """
    import onnx
    import tf2onnx

    tables = sorted(kind for kind in ops(saved_model) if "Table" in kind)
    if tables:
        raise ExportError(f"ONNX has no operator for {', '.join(tables)} ({LOOKUPS}).")
    # tf2onnx supports EnsureShape and takes sizes from it that TensorFlow cannot infer.
    simplify(saved_model, IDENTITIES - {"EnsureShape"}, without_complements=True)
    loaded = tf.saved_model.load(os.fspath(saved_model))  # Keeps the variables alive.
    signature = loaded.signatures["serving_default"]
    shared = signature.structured_input_signature[1].keys() & signature.structured_outputs.keys()
    if shared:
        raise ExportError(
            f"{', '.join(sorted(shared))} names both an input and an output of the model, and ONNX "
            "has one name for one tensor. Give the output another key."
        )
    frozen, names = _frozen(signature)
    logger = tf.get_logger()
    level = logger.level
    try:
        logger.setLevel("ERROR")  # tf2onnx calls deprecated functions of TensorFlow.
        with _transposes_kept():
            model, _ = tf2onnx.convert.from_graph_def(
                frozen.graph.as_graph_def(),
                name=path.stem,
                input_names=[tensor.name for tensor in frozen.inputs],
                output_names=[tensor.name for tensor in frozen.outputs],
                opset=OPSET,
                tensors_to_rename=names,
            )
        missing = _missing(model.graph)
        if not missing:
            _mend(model)
            onnx.save(model, path)
            _session(path)
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot run the model after conversion: {first_line(error)}"
        ) from error
    finally:
        logger.setLevel(level)
    if missing:
        raise ExportError(f"ONNX has no operator for {', '.join(sorted(missing))} of TensorFlow.")


def _frozen(signature: Any) -> tuple[Any, dict[str, str]]:
    """Returns a function without variables, and a dict from its tensors to their signature names.

    Inputs are sorted: a loaded signature lists them in an order that depends on the hash seed.
    """
    specs = signature.structured_input_signature[1]
    inputs, outputs = sorted(specs), sorted(signature.structured_outputs)

    def call(*tensors: tf.Tensor) -> list[tf.Tensor]:
        results = signature(**dict(zip(inputs, tensors, strict=True)))
        return [tf.identity(results[name]) for name in outputs]

    function = tf.function(call).get_concrete_function(*(specs[name] for name in inputs))
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    tensors = [*frozen.inputs, *frozen.outputs]
    return frozen, {
        tensor.name: name for tensor, name in zip(tensors, [*inputs, *outputs], strict=True)
    }


@contextlib.contextmanager
def _transposes_kept() -> Iterator[None]:
    """Keeps tf2onnx from replacing transpositions by reshapes within a `with` block.

    tf2onnx does so if all axes but one have size 1, going by the sizes it has recorded for each
    tensor. Those it records for `x * x` after a transposition are wrong.
    """
    from tf2onnx import optimizer
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    class Optimizer(TransposeOptimizer):
        def post_optimize_action(self) -> None:
            pass

    optimizers = optimizer._optimizers
    original = optimizers["optimize_transpose"]
    try:
        optimizers["optimize_transpose"] = Optimizer
        yield
    finally:
        optimizers["optimize_transpose"] = original


def _mend(model: Any) -> None:
    """Corrects in place what tf2onnx writes for some convolutions.

    tf2onnx writes a single group for every 3-D convolution, and expresses zeros to append after a
    transposed convolution as negative padding.
    """
    import onnx

    attributes = [{item.name: item for item in node.attribute} for node in model.graph.node]
    nodes = list(zip(model.graph.node, attributes, strict=True))
    kernels = {kernel.name: kernel.dims for kernel in model.graph.initializer}
    volumes = [
        (node, items)
        for node, items in nodes
        if node.op_type == "Conv" and len(kernels.get(node.input[1], ())) == 5
    ]
    channels = _channels(model) if volumes else {}
    for node, items in volumes:
        # Kernels are [output channels, input channels / groups, ...].
        per_group = kernels[node.input[1]][1]
        items["group"].i = channels.get(node.input[0], per_group) // per_group
    for node, items in nodes:
        # Begins, then ends.
        pads = list(items["pads"].ints) if "pads" in items else [0]
        if node.op_type == "ConvTranspose" and min(pads) < 0:
            padding = [max(-end, 0) for end in pads[len(pads) // 2 :]]
            items["pads"].ints[:] = [max(size, 0) for size in pads]
            node.attribute.append(onnx.helper.make_attribute("output_padding", padding))


def _channels(model: Any) -> dict[str, int]:
    """Returns the known sizes of axis 1 of 5-D tensors, by the names of the tensors."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: value.type.tensor_type.shape.dim for value in [*graph.value_info, *graph.input]
    }
    sizes = {name: dim[1].dim_value for name, dim in shapes.items() if len(dim) == 5}
    return {name: size for name, size in sizes.items() if size}  # 0 means unknown.


def _missing(graph: Any) -> set[str]:
    """Returns the ops of a graph and its subgraphs that ONNX does not have."""
    import onnx

    missing = {
        node.op_type
        for node in graph.node
        if not node.domain and not onnx.defs.has(node.op_type, OPSET)
    }
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                missing |= _missing(inner)
    return missing


def run(path: Path, inputs: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """Runs a file in ONNX Runtime.

    Args:
        path: an `.onnx` file.
        inputs: a dict from the names of its inputs to tensors.

    Returns:
        A dict from the names of its outputs to arrays.
    """
    session = _session(path)
    names = [output.name for output in session.get_outputs()]
    feed = {name: np.asarray(value) for name, value in inputs.items()}
    return dict(zip(names, session.run(names, feed), strict=True))


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
