"""Writes, inspects and runs SavedModels."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from .. import _export_mode, _library
from .errors import ExportError, first_line
from .model import named_outputs

#: In the directory that the SavedModel format reserves for other files.
REQUIREMENTS = Path("assets.extra", "tensorflow_groupnorm.json")

# TensorFlow stores a graph as a protocol buffer, which cannot exceed 2 GiB. Half of that is left
# for everything else.
_LARGEST_CONSTANTS = 1 << 30


def write(
    model: keras.Model,
    signature: list[Any],
    path: Path,
    *,
    stock: frozenset[str],
    group_norm: Callable[..., tf.Tensor] | None = None,
) -> list[str]:
    """Writes the model's call at inference with standardized kernels as constants.

    Args:
        model: a `keras.Model`; it is not changed.
        signature: of `named_signature`.
        path: a directory that does not exist yet.
        stock: the custom ops to replace by stock ones.
        group_norm: what to call in place of `ops.group_norm`.

    Returns:
        The op types in it that stock TensorFlow does not have, in order.

    Raises:
        ExportError: if the model cannot be traced, its constants do not fit into a graph, or its
            outputs do not fit into a signature.
        OSError: if it cannot be written, as on a full disk.
    """
    archive = keras.export.ExportArchive()
    # Saves the lookup tables of the model, but no variables that the call does not read.
    tables = tf.Module()
    tables.model = model
    archive.track(tables)

    def serve(*args: Any) -> Any:
        outputs = model(*args, training=False)
        named = named_outputs(outputs)
        # `serve` of the loaded model returns the model's own structure if a signature can hold it.
        nested = any(len(path) > 1 for path, _ in keras.tree.flatten_with_path(outputs))
        return named if nested else outputs

    with _export_mode.ExportMode(stock, group_norm).active() as mode:
        try:
            archive.add_endpoint("serve", serve, signature).get_concrete_function()
        except ValueError as error:
            raise ExportError(
                f"Keras cannot trace the model {model.name}: {first_line(error)}"
            ) from error
        if mode.folded_bytes > _LARGEST_CONSTANTS:
            raise ExportError(
                f"The standardized kernels of {model.name} are {mode.folded_bytes / 2**30:.1f} "
                "GiB of constants, and TensorFlow cannot store a graph of 2 GiB: use "
                "model.export(), which keeps the StandardizeWeights ops."
            )
        try:
            archive.write_out(os.fspath(path), verbose=False)
        except tf.errors.OpError as error:
            # As in `{{...}} FILE; No space left on device [Op:SaveV2]`.
            reason = re.sub(r"\s*\[Op:\w+\]$", "", error.message).rpartition("; ")[2]
            raise OSError(f"The SavedModel cannot be written: {reason}") from error
    custom_ops = sorted(kind for kind in ops(path) if not hasattr(tf.raw_ops, kind))
    _write_requirements(path, custom_ops, stock)
    return custom_ops


def load(path: Path) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Loads a SavedModel.

    Args:
        path: its directory.

    Returns:
        The signature `serving_default`: from a dict of inputs by name to one of outputs.
    """
    loaded = tf.saved_model.load(os.fspath(path))  # The call keeps the variables alive.
    return lambda inputs: loaded.signatures["serving_default"](**inputs)


def ops(path: Path) -> set[str]:
    """Returns the types of all ops of a SavedModel, including those in its functions."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((path / "saved_model.pb").read_bytes())
    graphs = [meta_graph.graph_def for meta_graph in saved_model.meta_graphs]
    functions = [function for graph in graphs for function in graph.library.function]
    called = {function.signature.name for function in functions}
    kinds = {node.op for graph in graphs for node in graph.node}
    kinds |= {node.op for function in functions for node in function.node_def}
    return kinds - called


def _write_requirements(path: Path, custom_ops: list[str], stock: frozenset[str]) -> None:
    version = importlib.metadata.version("tensorflow-groupnorm")
    ours = [kind for kind in custom_ops if kind in _library.OPS]
    requirements = {
        "written_by": {
            "tensorflow-groupnorm": version,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "portable": bool(stock),
        "custom_ops": custom_ops,
        "requires": {
            "tensorflow": f">={'.'.join(tf.__version__.split('.')[:2])}",
            **({"tensorflow-groupnorm": f">={version}"} if ours else {}),
        },
    }
    file = path / REQUIREMENTS
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(requirements, indent=1) + "\n")
