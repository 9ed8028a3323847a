"""Converts a portable SavedModel to ONNX, and runs that."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from ._errors import ExportError, first_line

#: The newest that tf2onnx writes. GroupNorm comes in primitives, as GroupNormalization of opset 18
#: has a scale per group and the one of 21, with a scale per channel, is beyond it.
OPSET = 18


def require():
    """Raises ImportError, saying what to install, where a package that ONNX needs is missing."""
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


def convert(saved_model: Path, path: Path):
    """Writes an `.onnx` file whose inputs and outputs have the names of the signature.

    Args:
        saved_model: a SavedModel of stock ops with the signature `serving_default`.
        path: the file to write.

    Raises:
        ExportError: if the model has an op that ONNX Runtime has no kernel for.
    """
    import tf2onnx

    loaded = tf.saved_model.load(os.fspath(saved_model))  # Holds the variables of its functions.
    frozen, names = _frozen(loaded.signatures["serving_default"])
    logger = tf.get_logger()
    level = logger.level
    try:
        logger.setLevel("ERROR")  # tf2onnx calls what TensorFlow has deprecated.
        tf2onnx.convert.from_graph_def(
            _without_erfc(frozen.graph.as_graph_def()),
            name=path.stem,
            input_names=[tensor.name for tensor in frozen.inputs],
            output_names=[tensor.name for tensor in frozen.outputs],
            opset=OPSET,
            tensors_to_rename=names,
            output_path=os.fspath(path),
        )
        _session(path)
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot run the model after conversion: {first_line(error)}"
        ) from error
    finally:
        logger.setLevel(level)


def _frozen(signature):
    """Returns a function without variables, and the names of its tensors in the signature.

    The order in which a loaded signature lists its inputs depends on the hashes of their names.
    """
    specs = signature.structured_input_signature[1]
    inputs, outputs = sorted(specs), sorted(signature.structured_outputs)

    def call(*tensors):
        results = signature(**dict(zip(inputs, tensors, strict=True)))
        return [tf.identity(results[name]) for name in outputs]

    function = tf.function(call).get_concrete_function(*(specs[name] for name in inputs))
    frozen = convert_variables_to_constants_v2(function)
    tensors = [*frozen.inputs, *frozen.outputs]
    return frozen, {
        tensor.name: name for tensor, name in zip(tensors, [*inputs, *outputs], strict=True)
    }


def _without_erfc(graph_def):
    """Writes erfc(x), of the GELU activation, as 1 - erf(x), which ONNX has."""
    for node in [node for node in graph_def.node if node.op == "Erfc"]:
        name, dtype = node.name, node.attr["T"].type
        node.op, node.name = "Erf", f"{name}/erf"
        one = graph_def.node.add(op="Const", name=f"{name}/one")
        one.attr["dtype"].type = dtype
        one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1, dtype, shape=[]))
        difference = graph_def.node.add(op="Sub", name=name, input=[one.name, node.name])
        difference.attr["T"].type = dtype
    return graph_def


def run(path: Path, inputs: dict) -> dict:
    """Runs the file in ONNX Runtime.

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


def _session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
