"""Converts a portable SavedModel to TFLite, and runs that."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

from .errors import LOOKUPS, ExportError, first_line
from .graph import simplify


def convert(saved_model: Path, path: Path):
    """Writes a `.tflite` file of TFLite's builtin ops alone.

    Args:
        saved_model: a SavedModel of stock ops with the signature `serving_default`; it is changed.
        path: the file to write.

    Raises:
        ExportError: if an op of the model has no builtin counterpart.
    """
    simplify(saved_model)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        os.fspath(saved_model), signature_keys=["serving_default"]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    # Variables become constants: the file has no state to initialize.
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
                " (recurrent layers need a fixed batch size: give input_signature with one, or "
                "unroll them)"
            )
        raise ExportError(
            f"TFLite cannot convert the model into its builtin ops: {reason}"
        ) from error
    path.write_bytes(content)


def run(path: Path, inputs: dict) -> dict:
    """Runs the signature `serving_default` in TensorFlow's own TFLite interpreter.

    Args:
        path: a `.tflite` file.
        inputs: a dict from the names of its inputs to tensors.

    Returns:
        A dict from the names of its outputs to arrays.
    """
    with warnings.catch_warnings():
        # It is to move to a package of its own, and still is in TensorFlow.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        interpreter = tf.lite.Interpreter(os.fspath(path))
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return interpreter.get_signature_runner("serving_default")(**arrays)
