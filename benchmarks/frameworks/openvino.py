"""OpenVINO."""

from __future__ import annotations

import os

import openvino

from ..cases import Inference
from ..export import contenders, files, layouts


def versions() -> dict:
    return {"OpenVINO": openvino.__version__.partition("-")[0]}


def load(case: Inference, arrays: dict) -> dict:
    return layouts.both(arrays)


def function(contender: str, case: Inference):
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 is the default where the CPU has it.
        "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        "PERFORMANCE_HINT": "LATENCY",
    }
    path = files.path(case.network, case.batch, contenders.CONTENDERS[contender].file)
    # Without the extension by which OpenVINO tells ONNX files.
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path.read_bytes()), "CPU", settings)
    request, is_first = compiled.create_infer_request(), layouts.is_first(contender)
    return lambda inputs: request.infer(inputs[is_first])
