"""A copy of the op library where TensorFlow loads it by itself, at `import tensorflow`.

TensorFlow loads every shared object in `site-packages/tensorflow-plugins`; one for another minor
version makes `import tensorflow` fail. Hence nothing here imports TensorFlow: a copy can be
removed, and named as the reason, when TensorFlow cannot be imported any more.
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
from pathlib import Path

from .files import whole, write_text
from .names import OP_LIBRARY

FOLDER = "tensorflow-plugins"
_RECORD = "tensorflow_groupnorm.json"

# What the child processes run. The second one is in the place of any stock tool.
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
except ValueError:  # TensorFlow knows the op, and misses its attributes.
    pass
"""


class PluginError(RuntimeError):
    """The plugin could not be installed or removed. The message says why, in one sentence."""


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A copy of the op library that TensorFlow loads by itself.

    Attributes:
        path: the copy.
        tensorflow: the version of TensorFlow that it was tried with; None where nobody knows.
    """

    path: Path
    tensorflow: str | None

    def problem(self) -> str | None:
        """Tells why `import tensorflow` fails, or will, with this copy; None if it does not."""
        installed = _installed_tensorflow()
        if None in (installed, self.tensorflow) or _minor(installed) == _minor(self.tensorflow):
            return None
        return (
            f"{self.path} is for TensorFlow {_minor(self.tensorflow)}, and TensorFlow {installed} "
            "cannot be imported with it: run `tfgn install-plugin --remove`."
        )


def site_packages() -> Path:
    """Returns the site-packages of the running interpreter."""
    return Path(sysconfig.get_path("purelib"))


def installed() -> Plugin | None:
    """Returns the copy of the running interpreter, or None."""
    folder = site_packages() / FOLDER
    if not (folder / OP_LIBRARY).exists():
        return None
    tensorflow = None
    with contextlib.suppress(OSError, ValueError, KeyError):
        tensorflow = json.loads((folder / _RECORD).read_text())["tensorflow"]
    return Plugin(folder / OP_LIBRARY, tensorflow)


def install() -> Plugin:
    """Copies the op library to where TensorFlow loads it, and tries whether it does.

    A copy that is there already is replaced. What fails leaves everything as it was.

    Raises:
        PluginError: if the op library does not go with the installed TensorFlow, or cannot be
            copied.
    """
    folder = site_packages() / FOLDER
    copy, record = folder / OP_LIBRARY, folder / _RECORD
    with _set_aside(copy, record):
        library, tensorflow = json.loads(_run(_FIND).splitlines()[-1])
        # In one step, as TensorFlow may be imported by others at this moment. It does not look into
        # folders, such as that of the unfinished copy.
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
        Where it was, or None if there was none.

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
    with contextlib.suppress(OSError):  # Plugins of others are in it, or it is not there.
        folder.rmdir()
    return folder / OP_LIBRARY if existed else None


@contextlib.contextmanager
def _set_aside(*paths):
    """Moves files out of TensorFlow's sight; back again if the `with` block fails."""
    aside = {path: path.with_name(f"{path.name}.replaced") for path in paths if path.exists()}
    for path, kept in aside.items():
        os.replace(path, kept)
    try:
        yield
    except BaseException:
        for path in paths:
            with contextlib.suppress(OSError):  # Not there, or neither is the folder.
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
        raise PluginError(f"The op library was tried, and is not installed: {reason}")
    return result.stdout


def _installed_tensorflow() -> str | None:
    for name in ("tensorflow", "tensorflow-cpu", "tf-nightly"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
