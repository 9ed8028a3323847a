"""The files of the section `export`, each written in a process of its own before its first use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .contenders import KERAS_FILES

ROOT = Path(__file__).resolve().parent.parent.parent
VARIABLE = "TFGN_BENCHMARK_FILES"


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """Keeps the files in a folder that is deleted after the `with` block."""
    with tempfile.TemporaryDirectory(prefix="tfgn-exports-") as path:
        os.environ[VARIABLE] = path
        try:
            yield
        finally:
            del os.environ[VARIABLE]


def root() -> Path:
    """Returns the folder, which all processes share."""
    return Path(os.environ[VARIABLE])


def path(network: str, batch: int, name: str) -> Path:
    """Returns a file, which is written if it is missing, with the others of its writer.

    Raises:
        RuntimeError: if it cannot be written. The message says why.
    """
    writer = "write_keras" if name in KERAS_FILES else "write_torch"
    place = root() / f"{network}-{batch}-{writer}"
    # Several workers may ask at once.
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            place.mkdir()
            _run(f"benchmarks.export.{writer}", network, str(batch), str(place))
    file = place / name
    if not file.exists():
        reason = _text(place / f"{name}.error") or _text(place / "error")
        raise RuntimeError(f"{name} is not written: {reason}")
    return file


def nodes(network: str, batch: int, name: str) -> int | None:
    """Returns the number of nodes of an ONNX file that was written, or None for others."""
    writer = "write_keras" if name in KERAS_FILES else "write_torch"
    text = _text(root() / f"{network}-{batch}-{writer}" / f"{name}.nodes")
    return int(text) if text else None


def _run(module: str, network: str, batch: str, place: str):
    command = [sys.executable, "-m", module, network, batch, place]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode:
        errors = re.findall(r"^[\w.]*(?:Error|Exception): .*$", done.stderr, re.MULTILINE)
        Path(place, "error").write_text(errors[0] if errors else f"exit code {done.returncode}")


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
