"""Installs a copy of the op library that TensorFlow loads at `import tensorflow`.

TensorFlow loads every shared object in `site-packages/tensorflow-plugins`. A library for another
minor version makes `import tensorflow` fail. This module does not import TensorFlow, so that it can
report and remove such a copy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .files import whole, write_text
from .names import OP_LIBRARY

FOLDER = "tensorflow-plugins"
_RECORD = "tensorflow_groupnorm.json"

# The code of the child processes. The second one stands for any stock tool.
_FIND = """
import json, tensorflow as tf, tensorflow_groupnorm as tfgn
tfgn.group_norm(tf.ones([1, 4]), groups=2)
print(json.dumps([tfgn.plugin_path(), tf.__version__]))
"""
_TRY = """
import tensorflow as tf
graph_def = tf.compat.v1.GraphDef()
graph_def.node.add(name="probe", op="GroupNorm")
try:
    tf.graph_util.import_graph_def(graph_def)
except ValueError:  # TensorFlow knows the op and reports that its attributes are missing.
    pass
"""


class PluginError(RuntimeError):
    """The plugin could not be installed or removed. The message says why in one sentence."""


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A copy of the op library that TensorFlow loads as a plugin.

    Attributes:
        path: the path of the copy.
        tensorflow: the version of TensorFlow that it was tested with, or None if unknown.
    """

    path: Path
    tensorflow: str | None

    def problem(self) -> str | None:
        """Returns why `import tensorflow` fails with this copy, or None if it does not."""
        installed = _installed_tensorflow()
        if installed is None or self.tensorflow is None:
            return None
        if _minor(installed) == _minor(self.tensorflow):
            return None
        return (
            f"{self.path} is for TensorFlow {_minor(self.tensorflow)}, and TensorFlow {installed} "
            "cannot be imported with it: run `tfgn install-plugin --remove`."
        )


def site_packages() -> Path:
    """Returns the site-packages folder of the running interpreter."""
    return Path(sysconfig.get_path("purelib"))


def installed() -> Plugin | None:
    """Returns the copy in the site-packages of the running interpreter, or None."""
    folder = site_packages() / FOLDER
    if not (folder / OP_LIBRARY).exists():
        return None
    tensorflow = None
    with contextlib.suppress(OSError, ValueError, KeyError):
        tensorflow = json.loads((folder / _RECORD).read_text())["tensorflow"]
    return Plugin(folder / OP_LIBRARY, tensorflow)


def install() -> Plugin:
    """Copies the op library to where TensorFlow loads it, and tests that it does.

    Replaces a copy that exists. A failure leaves everything as it was.

    Raises:
        PluginError: if the op library does not work with the installed TensorFlow, or cannot be
            copied.
    """
    folder = site_packages() / FOLDER
    copy, record = folder / OP_LIBRARY, folder / _RECORD
    with _set_aside(copy, record):
        library, tensorflow = json.loads(_run(_FIND).splitlines()[-1])
        # Atomically, because another process may import TensorFlow at any time. TensorFlow does not
        # look into subdirectories, such as that of the unfinished copy.
        try:
            folder.mkdir(exist_ok=True)
            with whole(copy) as unfinished:
                shutil.copyfile(library, unfinished)
        except OSError as error:
            raise PluginError(f"The op library cannot be copied to {folder}: {error}") from error
        _run(_TRY)
        version = importlib.metadata.version("tensorflow-groupnorm")
        facts = {"tensorflow-groupnorm": version, "tensorflow": tensorflow}
        write_text(record, json.dumps(facts, indent=1) + "\n")
    return Plugin(copy, tensorflow)


def remove() -> Path | None:
    """Removes the copy.

    Returns:
        The path of the copy, or None if there was none.

    Raises:
        PluginError: if it cannot be removed.
    """
    folder = site_packages() / FOLDER
    existed = (folder / OP_LIBRARY).exists()
    try:
        (folder / OP_LIBRARY).unlink(missing_ok=True)
        (folder / _RECORD).unlink(missing_ok=True)
    except OSError as error:
        raise PluginError(f"The plugin cannot be removed: {error}") from error
    with contextlib.suppress(OSError):  # It holds other plugins, or does not exist.
        folder.rmdir()
    return folder / OP_LIBRARY if existed else None


@contextlib.contextmanager
def _set_aside(*paths: Path) -> Iterator[None]:
    """Renames files so that TensorFlow does not load them, and back if the `with` block fails."""
    aside = {path: path.with_name(f"{path.name}.replaced") for path in paths if path.exists()}
    for path, kept in aside.items():
        os.replace(path, kept)
    try:
        yield
    except BaseException:
        for path in paths:
            with contextlib.suppress(OSError):  # It was not written.
                path.unlink()
        for path, kept in aside.items():
            os.replace(kept, path)
        with contextlib.suppress(OSError):
            paths[0].parent.rmdir()
        raise
    for kept in aside.values():
        kept.unlink()


def _run(code: str) -> str:
    environment = os.environ | {"TFGN_REQUIRE_FUSED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        reason = lines[-1].removeprefix("ImportError: ")
        raise PluginError(f"The op library does not load and was not installed: {reason}")
    return result.stdout


def _installed_tensorflow() -> str | None:
    for name in ("tensorflow", "tensorflow-cpu", "tf-nightly"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
