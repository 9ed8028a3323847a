"""Converts a SavedModel to ONNX."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tfgn_base.extras import install_command

from ..stock._group_norm import SCOPE as STOCK_SCOPE
from .errors import LOOKUPS, ExportError, first_line
from .graph import IDENTITIES, simplify
from .onnx_graph import mend, merge_slices, nodes
from .onnx_nodes import Writer
from .saved_model import ops

# The newest opset that tf2onnx writes. All operators that it writes mean the same in opset 21.
_CONVERTED = 18

# The first versions of the file format for later opsets.
_IR_VERSIONS = {21: 10}


@dataclasses.dataclass(frozen=True)
class Normalizations:
    """The normalizations of a graph that was written to a file.

    Attributes:
        written: a dict from the names of the GroupNorm ops to the names and kinds of their nodes.
        stock: the name scopes of normalizations in stock ops.
        kind: the kind of node that the target asks for.
    """

    written: dict[str, tuple[str, str]]
    stock: list[str]
    kind: str


def require(runtime: str) -> None:
    """Raises ImportError, with what to install, if a package that an ONNX file needs is missing.

    Args:
        runtime: the package that runs the file, `"onnxruntime"` or `"openvino"`.
    """
    packages = ("onnx", "tf2onnx", runtime)
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extra = "openvino" if runtime == "openvino" else "export"
        raise ImportError(
            f"The export to ONNX needs {' and '.join(missing)}: {install_command(extra)}"
        )


def convert(saved_model: Path, path: Path, kind: str, opset: int) -> Normalizations:
    """Writes an `.onnx` file whose inputs and outputs are named as in the signature.

    Args:
        saved_model: a SavedModel with the signature `serving_default`, whose only custom ops are
            GroupNorm. It is modified.
        path: the file to write.
        kind: the node that normalizes, `"GroupNormalization"` or `"InstanceNormalization"`.
        opset: the version of the operators, 18 or 21. GroupNormalization needs 21.

    Returns:
        The normalizations of the model.

    Raises:
        ExportError: if the model has an op that ONNX does not have.
    """
    import onnx

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
    graph = frozen.graph.as_graph_def()
    writer = Writer(kind, in_double=opset >= 21)
    try:
        model = _converted(graph, frozen, names, writer)
        missing = _missing(model.graph, opset)
        if not missing:
            mend(model)
            _raise_opset(model, opset)
            merge_slices(model)
            onnx.save(model, path)
    except Exception as error:
        raise ExportError(f"The model cannot be converted to ONNX: {first_line(error)}") from error
    if writer.errors:
        raise writer.errors[0]
    if missing:
        raise ExportError(f"ONNX has no operator for {', '.join(sorted(missing))} of TensorFlow.")
    # tf2onnx removes nodes that nothing reads, and all but one of equal ones.
    present = {(node.name, node.op_type) for node in nodes(model.graph)}
    written = {op: node for op, node in writer.written.items() if node in present}
    return Normalizations(written, _stock_normalizations(graph), kind)


def _converted(graph: Any, frozen: Any, names: dict[str, str], writer: Writer) -> Any:
    """Returns the graph of a frozen function as an ONNX model."""
    import tf2onnx

    logger = tf.get_logger()
    level = logger.level
    try:
        logger.setLevel("ERROR")  # tf2onnx calls deprecated functions of TensorFlow.
        with _transposes_kept():
            model, _ = tf2onnx.convert.from_graph_def(
                graph,
                name="model",
                input_names=[tensor.name for tensor in frozen.inputs],
                output_names=[tensor.name for tensor in frozen.outputs],
                opset=_CONVERTED,
                tensors_to_rename=names,
                custom_op_handlers=writer.handlers,
            )
        return model
    finally:
        logger.setLevel(level)


def _stock_normalizations(graph: Any) -> list[str]:
    """Returns the scopes of the calls of `stock.group_norm` in a graph."""
    names = {node.name for node in graph.node}
    names |= {node.name for function in graph.library.function for node in function.node_def}
    found = (re.match(rf"(.*/)?{STOCK_SCOPE}(_\d+)?(?=/)", name) for name in names)
    return sorted({match[0] for match in found if match})


def _raise_opset(model: Any, version: int) -> None:
    """Declares in place a later opset than the converted one."""
    for opset in model.opset_import:
        if not opset.domain:
            opset.version = version
    model.ir_version = max(model.ir_version, _IR_VERSIONS.get(version, 0))


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


def _missing(graph: Any, opset: int) -> set[str]:
    """Returns the ops of a graph and its subgraphs that ONNX does not have."""
    import onnx

    return {
        node.op_type
        for node in nodes(graph)
        if not node.domain and not onnx.defs.has(node.op_type, opset)
    }
