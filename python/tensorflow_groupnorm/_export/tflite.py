"""Converts a portable SavedModel to TFLite, and runs TFLite files."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from .errors import LOOKUPS, ExportError, first_line
from .graph import simplify


def convert(saved_model: Path, path: Path) -> None:
    """Writes a `.tflite` file that contains only TFLite's builtin ops.

    Args:
        saved_model: a SavedModel of stock ops with the signature `serving_default`. It is modified.
        path: the file to write.

    Raises:
        ExportError: if an op of the model has no builtin counterpart.
    """
    simplify(saved_model)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        os.fspath(saved_model), signature_keys=["serving_default"]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    # Variables become constants, so the file has no state to initialize.
    converter.experimental_enable_resource_variables = False
    try:
        content = converter.convert()
    except Exception as error:
        missing = re.findall(r"^(?:TF Select|Custom) ops: (.*)$", str(error), re.MULTILINE)
        reason = f"it has none for {', '.join(missing)}" if missing else first_line(error)
        if re.search("Table|String", reason):
            reason += f" ({LOOKUPS})"
        elif "'tf.TensorList" in reason:
            reason += (
                " (recurrent layers need a fixed batch size: pass input_signature with one, or "
                "unroll them)"
            )
        raise ExportError(
            f"TFLite cannot convert the model to its builtin ops: {reason}"
        ) from error
    path.write_bytes(content)


def load(path: Path) -> Callable[[dict[str, tf.Tensor]], dict[str, np.ndarray]]:
    """Loads a file into TensorFlow's own TFLite interpreter.

    Args:
        path: a `.tflite` file.

    Returns:
        The signature `serving_default`: from a dict of inputs by name to one of outputs.
    """
    with warnings.catch_warnings():
        # TensorFlow announces its move to another package, but still ships it.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        interpreter = tf.lite.Interpreter(os.fspath(path))
    signature = interpreter.get_signature_runner("serving_default")
    return lambda inputs: signature(**{name: np.asarray(x) for name, x in inputs.items()})
