"""Runs ONNX files in ONNX Runtime, and tells what it executes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from .normalizations import Execution
from .onnx_graph import nodes


def load(path: Path) -> Callable[[dict[str, tf.Tensor]], dict[str, np.ndarray]]:
    """Loads a file.

    Args:
        path: an `.onnx` file.

    Returns:
        Its call: from a dict of inputs by name to one of outputs.
    """
    session = _session(path)
    names = [output.name for output in session.get_outputs()]

    def call(inputs: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
        feed = {name: np.asarray(value) for name, value in inputs.items()}
        return dict(zip(names, session.run(names, feed), strict=True))

    return call


def execution(path: Path) -> Execution:
    """Returns what ONNX Runtime executes of a file on the CPU."""
    import onnx

    optimized = path.with_suffix(".optimized")
    _session(path, optimized)
    executed = list(nodes(onnx.load(optimized).graph))
    optimized.unlink()
    return Execution(
        "ONNX Runtime",
        [node.op_type for node in executed],
        frozenset(node.name for node in executed if node.op_type == "InstanceNormalization"),
    )


def _session(path: Path, optimized: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if optimized is not None:
        options.optimized_model_filepath = os.fspath(optimized)
        options.log_severity_level = 3  # It warns that the graph is for this machine's CPU.
    return onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )
