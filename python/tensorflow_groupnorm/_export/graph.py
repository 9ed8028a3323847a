"""Rewrites a SavedModel with ops that the converters support.

Ops that only training, debugging or compilation needs are removed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

#: Ops whose first output is their first input, whatever else they check, prevent or print.
IDENTITIES = frozenset(
    {
        "CheckNumerics",
        "CheckNumericsV2",
        "DebugGradientIdentity",
        "DebugIdentity",
        "DebugIdentityV2",
        "DeepCopy",
        "EnsureShape",
        "PreventGradient",
        "Print",
        "Snapshot",
        "StopGradient",
        "XlaSharding",
    }
)

#: Ops without outputs, which print or check. Only control dependencies follow them.
_EFFECTS = frozenset({"Assert", "PrintV2"})

# With the first, XLA compiles a function as a whole. With either, Grappler does not inline it.
_KEPT_WHOLE = ("_XlaMustCompile", "_noinline")


# f(x) = -(a - b), where one of a and b is 1 and the other an op that ONNX supports.
_COMPLEMENTS = {"Erfc": ("Erf", "1"), "Expm1": ("1", "Exp")}


def simplify(
    saved_model: Path,
    identities: frozenset[str] = IDENTITIES,
    *,
    without_complements: bool = False,
) -> None:
    """Rewrites the functions of a SavedModel in place.

    Ops that are identities at inference become `Identity`. Ops that only print or check are
    removed. Functions may be inlined.

    Args:
        saved_model: its directory.
        identities: the ops among `IDENTITIES` to replace.
        without_complements: whether to write erfc(x) as 1 - erf(x) and expm1(x) as exp(x) - 1.
    """
    file = saved_model / "saved_model.pb"
    content = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in content.meta_graphs:
        for function in meta_graph.graph_def.library.function:
            removed, renamed = _simplify_nodes(function.node_def, identities)
            for result, tensor in function.ret.items():
                function.ret[result] = renamed.get(tensor, tensor)
            _drop_control_results(function, removed)
            for name in _KEPT_WHOLE:
                function.attr.pop(name, None)
            if without_complements:
                _write_complements(function.node_def)
    file.write_bytes(content.SerializeToString())


def _simplify_nodes(nodes: Any, identities: frozenset[str]) -> tuple[set[str], dict[str, str]]:
    """Returns the names of removed nodes, and a dict from old to new names of tensors."""
    removed = {node.name for node in nodes if node.op in _EFFECTS}
    renamed = {}
    for node in nodes:
        for name in _KEPT_WHOLE:
            node.attr.pop(name, None)
        if node.op in identities:
            # Functions name a tensor after the output of its op, which is `output` for Identity.
            output = op_def_registry.get(node.op).output_arg[0].name
            renamed[f"{node.name}:{output}:0"] = f"{node.name}:output:0"
            _become_identity(node)
    kept = [node for node in nodes if node.name not in removed]
    for node in kept:
        node.input[:] = [
            renamed.get(name, name)
            for name in node.input
            if not (name.startswith("^") and name[1:] in removed)
        ]
    del nodes[:]
    nodes.extend(kept)
    return removed, renamed


def _become_identity(node: node_def_pb2.NodeDef) -> None:
    data = node.input[0]
    control = [name for name in node.input[1:] if name.startswith("^")]
    node.op = "Identity"
    node.input[:] = [data, *control]
    for name in [name for name in node.attr if name != "T" and not name.startswith("_")]:
        del node.attr[name]


def _drop_control_results(function: function_pb2.FunctionDef, removed: set[str]) -> None:
    gone = [result for result, node in function.control_ret.items() if node in removed]
    for result in gone:
        del function.control_ret[result]
    kept = [name for name in function.signature.control_output if name not in gone]
    function.signature.control_output[:] = kept


def _write_complements(nodes: Any) -> None:
    for node in [node for node in nodes if node.op in _COMPLEMENTS]:
        operands = []
        for op in _COMPLEMENTS[node.op]:
            operand = nodes.add(name=f"{node.name}/{op}")
            if op == "1":
                dtype = node.attr["T"].type
                operand.op = "Const"
                operand.attr["dtype"].type = dtype
                operand.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1, dtype, shape=[]))
                operands.append(f"{operand.name}:output:0")
            else:
                operand.op = op
                operand.input[:] = node.input
                operand.attr["T"].CopyFrom(node.attr["T"])
                operands.append(f"{operand.name}:y:0")
        difference = nodes.add(op="Sub", name=f"{node.name}/difference", input=operands)
        difference.attr["T"].CopyFrom(node.attr["T"])
        # The output of Neg is named `y`, like that of the op it replaces.
        node.op = "Neg"
        node.input[:] = [f"{difference.name}:z:0"]
