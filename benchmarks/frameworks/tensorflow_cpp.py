"""TensorFlow without Python: a C++ program that runs a SavedModel in a process of its own."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import tensorflow_groupnorm as tfgn

from ..cases import Inference
from ..export import contenders, files, program
from . import Elsewhere


def versions() -> dict:
    return {}  # Those of the TensorFlow that Python runs.


def load(case: Inference, arrays: dict) -> Path:
    folder = Path(tempfile.mkdtemp(dir=files.root()))
    for name, array in arrays.items():
        array.tofile(folder / name)
    return folder


def function(contender: str, case: Inference):
    saved_model = files.path(case.network, case.batch, contenders.CONTENDERS[contender].file)
    threads = len(os.sched_getaffinity(0))
    process = program.Program(_program(), saved_model, tfgn.plugin_path(), threads)
    return lambda folder: Elsewhere(process.time(folder))


@functools.cache
def _program() -> Path:
    return program.build(files.root() / "cpp")
