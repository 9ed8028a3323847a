"""LiteRT."""

from __future__ import annotations

import importlib.metadata
import os

from ai_edge_litert.interpreter import Interpreter

from ..cases import Inference
from ..export import contenders, files


def versions() -> dict:
    return {"LiteRT": importlib.metadata.version("ai-edge-litert")}


def load(case: Inference, arrays: dict) -> dict:
    return arrays


def function(contender: str, case: Inference):
    path = files.path(case.network, case.batch, contenders.CONTENDERS[contender].file)
    threads = len(os.sched_getaffinity(0))
    runner = Interpreter(os.fspath(path), num_threads=threads).get_signature_runner()
    return lambda arrays: runner(**arrays)
