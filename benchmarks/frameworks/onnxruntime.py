"""ONNX Runtime."""

from __future__ import annotations

import os

import onnxruntime

from ..cases import Inference
from ..export import contenders, files, layouts


def versions() -> dict:
    return {"ONNX Runtime": onnxruntime.__version__}


def load(case: Inference, arrays: dict) -> dict:
    return layouts.both(arrays)


def function(contender: str, case: Inference):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    # Otherwise its threads go on to spin during the turns of others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    path = files.path(case.network, case.batch, contenders.CONTENDERS[contender].file)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    is_first = layouts.is_first(contender)
    return lambda inputs: session.run(None, inputs[is_first])
