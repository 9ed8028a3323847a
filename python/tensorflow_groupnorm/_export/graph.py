"""Rewrites a SavedModel in ops that converters know.

What serves training, debugging and compilation alone goes; inference does not need it.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

#: Ops whose first output is their first input, whatever they check, forbid or print on the way.
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

#: Ops that have no output: they print or check, and nothing but control dependencies follows.
_EFFECTS = frozenset({"Assert", "PrintV2"})

# With the first XLA compiles a function as a whole, and with both Grappler leaves it a function.
_KEPT_WHOLE = ("_XlaMustCompile", "_noinline")


# f(x) = -(a - b), where one of a and b is 1 and the other an op that ONNX has.
_COMPLEMENTS = {"Erfc": ("Erf", "1"), "Expm1": ("1", "Exp")}


def simplify(saved_model: Path, identities=IDENTITIES, *, without_complements=False):
    """Rewrites the functions of a SavedModel in place.

    Ops that are identities at inference become `Identity`, ops that only print or check go, and
    functions may be inlined.

    Args:
        saved_model: the folder.
        identities: which of `IDENTITIES` to replace.
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


def _simplify_nodes(nodes, identities):
    """Returns the names of the nodes that went, and tensors by the names that they had."""
    removed = {node.name for node in nodes if node.op in _EFFECTS}
    renamed = {}
    for node in nodes:
        for name in _KEPT_WHOLE:
            node.attr.pop(name, None)
        if node.op in identities:
            # In functions a tensor is called after its op's output, which is `output` of Identity.
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


def _become_identity(node):
    data = node.input[0]
    control = [name for name in node.input[1:] if name.startswith("^")]
    node.op = "Identity"
    node.input[:] = [data, *control]
    for name in [name for name in node.attr if name != "T" and not name.startswith("_")]:
        del node.attr[name]


def _drop_control_results(function, removed):
    gone = [result for result, node in function.control_ret.items() if node in removed]
    for result in gone:
        del function.control_ret[result]
    kept = [name for name in function.signature.control_output if name not in gone]
    function.signature.control_output[:] = kept


def _write_complements(nodes):
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
        # The output of Neg is called `y`, as theirs is.
        node.op = "Neg"
        node.input[:] = [f"{difference.name}:z:0"]
