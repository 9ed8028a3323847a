"""Finds and loads the op library.

The one module that knows about shared objects and about which TensorFlow they were built for.
"""

from __future__ import annotations

import filecmp
import functools
import importlib
import importlib.resources
import os
import re
import types
import warnings
from pathlib import Path

import tensorflow as tf

_FILE_NAME = "_tfgn_ops.so"
_OPS = ("GroupNorm", "StandardizeWeights")


class FusedOpsUnavailableWarning(RuntimeWarning):
    """The fused ops could not be loaded; the layers run in stock TensorFlow ops."""


def build_info() -> dict[str, str | bool]:
    """Tells what the compiled part of the package was built from.

    Returns:
        A dictionary with the keys `version` (of this package), `tensorflow` (the version built
        against), `compiler`, `highway`, `cuda` (the toolkit's version, `""` for a CPU build) and
        `xla` (whether the ops compile under `jit_compile=True`).

    Raises:
        ImportError: if the compiled module is missing or cannot be loaded.
    """
    return _native().build_info()


def cpu_target() -> str:
    """Names the instruction set that the CPU kernels use on this machine, as Highway does.

    Raises:
        ImportError: if the compiled module is missing or cannot be loaded.
    """
    return _native().cpu_target()


def load() -> types.ModuleType | None:
    """Loads the op library, once.

    Returns:
        The module of generated op wrappers, or None where the library cannot be used with the
        running TensorFlow. The first such call warns with a `FusedOpsUnavailableWarning`.

    Raises:
        ImportError: instead of the warning, if the environment variable `TFGN_REQUIRE_FUSED` is 1.
    """
    return _load()[0]


def load_error() -> str | None:
    """Tells why `load()` returns None; None if it does not."""
    return _load()[1]


@functools.cache
def _load() -> tuple[types.ModuleType | None, str | None]:
    try:
        return _load_or_raise(), None
    except ImportError as error:
        if os.environ.get("TFGN_REQUIRE_FUSED", "") not in ("", "0"):
            raise
        warnings.warn(
            f"{error} Until then the layers run in stock TensorFlow ops, slower. Set "
            "TFGN_REQUIRE_FUSED=1 to make this an error.",
            FusedOpsUnavailableWarning,
            stacklevel=3,
        )
        return None, str(error)


def _load_or_raise() -> types.ModuleType:
    info = build_info()
    built_for = ".".join(info["tensorflow"].split(".")[:2])
    # The C++ interface changes with every minor: a library for another one fails in dlopen with
    # an undefined symbol at best.
    if tf.__version__.split(".")[:2] != built_for.split("."):
        raise ImportError(
            f"tensorflow-groupnorm {info['version']} was built for TensorFlow {built_for}, but "
            f"TensorFlow {tf.__version__} is installed. Install the matching one with "
            f'`pip install "tensorflow=={built_for}.*"`.'
        )
    library = importlib.resources.files(__package__) / _FILE_NAME
    if not library.is_file():
        raise ImportError(
            f"The op library of tensorflow-groupnorm is missing: {library}. Reinstall the package."
        )
    registered = [name for name in _OPS if _is_registered(name)]
    path = _loaded_copy(library) if registered else os.fspath(library)
    try:
        module = tf.load_op_library(path) if path else None
    except (tf.errors.OpError, OSError) as error:
        raise ImportError(
            f"The op library of tensorflow-groupnorm cannot be loaded into TensorFlow "
            f"{tf.__version__}: {error}. Reinstall the package."
        ) from error
    # TensorFlow generates no wrappers for ops that another library registered before.
    if registered and not hasattr(module, "group_norm"):
        places = [os.fspath(path) for path in _mapped_files() if path.name == library.name]
        raise ImportError(
            f"Another library in this process{f' ({places[0]})' if places else ''} has registered "
            f"the op {' and the op '.join(registered)} already. With {library} loaded too, "
            "TensorFlow would fail at the first call with `Multiple OpKernel registrations match "
            "NodeDef`. Do not load the other library: `import tensorflow_groupnorm` loads the ops."
        )
    return module


def _native() -> types.ModuleType:
    try:
        return importlib.import_module(f"{__package__}._native")
    except ImportError as error:
        raise ImportError(
            f"The compiled module of tensorflow-groupnorm cannot be imported: {error}. Reinstall "
            "the package."
        ) from error


def _is_registered(op: str) -> bool:
    """Whether this process knows an op of that name already."""
    graph_def = tf.compat.v1.GraphDef()
    graph_def.node.add(name="probe", op=op)
    try:
        with tf.Graph().as_default():
            tf.graph_util.import_graph_def(graph_def, name="")
    except tf.errors.NotFoundError:
        return False
    except ValueError:  # The op is known, and the probe has none of its attributes.
        return True
    return True


def _mapped_files() -> list[Path]:
    """The shared objects that this process has loaded."""
    maps = Path("/proc/self/maps")
    text = maps.read_text() if maps.exists() else ""
    return [Path(path) for path in dict.fromkeys(re.findall(r" (/.*\.so\b.*)$", text, re.M))]


def _loaded_copy(library: Path) -> str | None:
    """The file through which this very library is loaded already, wherever it lies.

    A copy in `tensorflow-plugins`, say. It serves as well as the package's own file, and two in
    one process do not go together.
    """
    for path in _mapped_files():
        if path.is_file() and filecmp.cmp(path, library, shallow=False):
            return os.fspath(path)
    return None
