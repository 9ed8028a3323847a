"""Converts a SavedModel to TFLite, and runs TFLite files."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from .errors import LOOKUPS, ExportError, first_line
from .graph import simplify
from .saved_model import ops


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a file has, as read back from it.

    Attributes:
        composites: for each GroupNorm op, its name in TensorFlow's graph, and whether the scale and
            the shift of its composite are constants.
        executed: how many operators of each type a CPU executes, in decreasing order.
    """

    composites: list[tuple[str, bool]]
    executed: dict[str, int]


def convert(saved_model: Path, path: Path) -> Converted:
    """Writes a `.tflite` file of TFLite's builtin ops, with GroupNorm ops as composites.

    Args:
        saved_model: a SavedModel with the signature `serving_default`, whose only custom ops are
            those of `GroupNormWriter`. It is modified.
        path: the file to write.

    Returns:
        The composites and the operators of the file.

    Raises:
        ExportError: if an op of the model has no builtin counterpart.
    """
    from . import litert_composites

    simplify(saved_model)
    content, names = litert_composites.with_composites(converted(saved_model))
    path.write_bytes(content)
    written = litert_composites.read(path)
    if len(written.composites) != len(names):
        raise ExportError(
            f"The file has {len(written.composites)} composites for {len(names)} normalizations."
        )
    composites = list(zip(names, written.composites, strict=True))
    return Converted(composites, written.executed)


def converted(saved_model: Path) -> bytes:
    """Returns the content of a file whose only custom ops are GroupNorm."""
    from . import litert_composites

    converter = tf.lite.TFLiteConverter.from_saved_model(
        os.fspath(saved_model), signature_keys=["serving_default"]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = "GroupNorm" in ops(saved_model)
    # Variables become constants, so the file has no state to initialize.
    converter.experimental_enable_resource_variables = False
    try:
        content = bytes(converter.convert())
    except Exception as error:
        missing = re.findall(r"^(?:TF Select|Custom) ops: (.*)$", str(error), re.MULTILINE)
        raise _refused(", ".join(missing), first_line(error)) from error
    missing = [name for name in litert_composites.custom_ops(content) if name != "GroupNorm"]
    if missing:
        raise _refused(", ".join(missing))
    return content


def _refused(missing: str, reason: str = "") -> ExportError:
    """The error about ops without a builtin counterpart, or for another reason."""
    if missing:
        reason = f"it has none for {missing}"
    if re.search("Table|String", reason):
        reason += f" ({LOOKUPS})"
    elif "'tf.TensorList" in reason:
        reason += (
            " (recurrent layers need a fixed batch size: pass input_signature with one, or build "
            "them with unroll=True)"
        )
    return ExportError(f"TFLite cannot convert the model to its builtin ops: {reason}")


def load(path: Path) -> Callable[[dict[str, tf.Tensor]], dict[str, np.ndarray]]:
    """Loads a file into LiteRT's interpreter, or into TensorFlow's own without `ai-edge-litert`.

    Args:
        path: a `.tflite` file.

    Returns:
        The signature `serving_default`: from a dict of inputs by name to one of outputs.
    """
    signature = _interpreter(path).get_signature_runner("serving_default")
    return lambda inputs: signature(**{name: np.asarray(x) for name, x in inputs.items()})


def _interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        with warnings.catch_warnings():
            # TensorFlow announces its move to that package, but still ships it.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
            return tf.lite.Interpreter(os.fspath(path))
    return Interpreter(os.fspath(path))
