"""Finds and loads the op library and the library of its XLA kernels.

The one module that knows about shared objects and about which TensorFlow they were built for. They
lie in a folder for each minor of TensorFlow that this installation serves, with a file that says
what they are: `tf2.21/_tfgn_ops.so`, `tf2.21/_tfgn_xla.so`, `tf2.21/build.json`.
"""

from __future__ import annotations

import contextlib
import ctypes
import filecmp
import functools
import importlib.metadata
import importlib.resources
import json
import os
import re
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import tensorflow as tf
from tfgn_base.names import OP_LIBRARY

OPS = (
    "GroupNorm",
    "GroupNormGrad",
    "StandardizeWeights",
    "StandardizeWeightsGrad",
    "OptimizationBarrier",
)
_XLA_LIBRARY = "_tfgn_xla.so"
_OF_MINOR = re.compile(r"tf(\d+\.\d+)")


class FusedOpsUnavailableWarning(RuntimeWarning):
    """The fused ops could not be loaded, and the layers run in stock TensorFlow ops.

    Or their XLA kernels could not be, and they do not compile under `jit_compile=True`.
    """


def build_info() -> dict[str, Any]:
    """Tells what the compiled part of the package was built from.

    Returns:
        A dictionary with the keys `version` (of this package), `tensorflow_minors` (what there are
        libraries for, oldest first, e.g. `["2.20", "2.21"]`), `tensorflow` (the version that the
        libraries for the installed minor were built against, `""` if there are none), `compiler`,
        `highway`, and of these libraries `cuda` (the version of the toolkit, `""` if they have
        kernels for CPUs only) and `xla` (whether they have kernels for `jit_compile=True`).

    Raises:
        ImportError: if the package has no libraries, or cannot read what they were built from.
    """
    minors, installed = _minors(), _installed_minor()
    if not minors:
        raise ImportError(
            f"The op library of tensorflow-groupnorm is missing: {_package()} has no folder such "
            f"as tf{installed}. Reinstall the package."
        )
    served = installed in minors
    # One compiler and one Highway build the libraries for all minors.
    build = _build_of(installed if served else minors[-1])
    return {
        "version": build["version"],
        "compiler": build["compiler"],
        "highway": build["highway"],
        "tensorflow_minors": minors,
        "tensorflow": build["tensorflow"] if served else "",
        "cuda": build["cuda"] if served else "",
        "xla": build["xla"] if served else False,
    }


def cpu_target() -> str:
    """Names the instruction set that the CPU kernels use on this machine, as Highway does.

    Raises:
        ImportError: if the op library cannot be used with the running TensorFlow.
    """
    ops = _load_ops()
    if ops.error is not None:
        raise ImportError(ops.error)
    # NOLOAD: to load a library anew would register its ops a second time.
    function = ctypes.CDLL(ops.path, mode=os.RTLD_NOLOAD).tfgn_cpu_target
    function.restype = ctypes.c_char_p
    return function().decode()


def load() -> types.ModuleType | None:
    """Loads the op library and, where there is one, the library of its XLA kernels, once.

    Returns:
        The module of generated op wrappers, or None where the library cannot be used with the
        running TensorFlow. The first such call warns with a `FusedOpsUnavailableWarning`.

    Raises:
        ImportError: instead of the warning, if the environment variable `TFGN_REQUIRE_FUSED` is 1.
    """
    module = _load_ops().module
    if module is not None:
        _load_xla()
    return module


def plugin_path() -> str:
    """Finds the op library, for programs that load it themselves.

    For `tf.load_op_library` (which brings the ops without their gradients: `import
    tensorflow_groupnorm` has both), `TF_LoadLibrary` of TensorFlow's C API, `dlopen`, and
    `LD_PRELOAD` into a program that is not Python.

    Returns:
        The path of the shared object. It goes with the installed TensorFlow, and needs no other
        library of its own.

    Raises:
        ImportError: if the library is missing or is not for the running TensorFlow.
    """
    if load_error() is not None:
        raise ImportError(load_error())
    return os.fspath(_find(OP_LIBRARY, "The op library"))


def load_error() -> str | None:
    """Tells why `load()` returns None; None if it does not."""
    return _load_ops().error


def xla_error() -> str | None:
    """Tells why the ops do not compile under `jit_compile=True`; None if they do."""
    if load_error() is not None:
        return load_error()
    if tf.config.get_visible_devices("GPU") and not build_info()["cuda"]:
        return (
            "TensorFlow sees a GPU and would compile for it, but this build of "
            "tensorflow-groupnorm has kernels for CPUs only."
        )
    return _load_xla()


class _Ops(NamedTuple):
    """The loaded op library, or why it is not loaded."""

    module: types.ModuleType | None = None
    path: str | None = None
    error: str | None = None


@functools.cache
def _load_ops() -> _Ops:
    try:
        return _load_ops_or_raise()
    except ImportError as error:
        _warn(error, "the layers run in stock TensorFlow ops, slower")
        return _Ops(error=str(error))


@functools.cache
def _load_xla() -> str | None:
    """Loads the XLA kernels of ops that are loaded; returns why not."""
    info = build_info()
    if not info["xla"]:
        return (
            f"tensorflow-groupnorm {info['version']} was built without XLA kernels: TensorFlow "
            f"{info['tensorflow']} is not 2.20 or newer, or TFGN_XLA was OFF."
        )
    try:
        _load_xla_or_raise()
    except ImportError as error:
        _warn(error, "the fused ops do not compile under jit_compile=True")
        return str(error)
    return None


def _warn(error: ImportError, consequence: str) -> None:
    if os.environ.get("TFGN_REQUIRE_FUSED", "") not in ("", "0"):
        raise error
    warnings.warn(
        f"{error} Until then {consequence}. Set TFGN_REQUIRE_FUSED=1 to make this an error.",
        FusedOpsUnavailableWarning,
        stacklevel=4,
    )


def _load_ops_or_raise() -> _Ops:
    info = build_info()
    minors, installed = info["tensorflow_minors"], _installed_minor()
    # The C++ interface changes with every minor: a library for another one fails in dlopen with
    # an undefined symbol at best.
    if installed not in minors:
        raise ImportError(
            f"tensorflow-groupnorm {info['version']} was built for TensorFlow "
            f"{' and '.join(', '.join(minors).rsplit(', ', 1))}, but TensorFlow {tf.__version__} "
            f"is installed. Install {'the' if len(minors) == 1 else 'a'} matching one with "
            f'`pip install "tensorflow=={minors[-1]}.*"`.'
        )
    if info["version"] != (version := importlib.metadata.version("tensorflow-groupnorm")):
        raise ImportError(
            f"The libraries for TensorFlow {installed} in {_package()} are of tensorflow-groupnorm "
            f"{info['version']}, but version {version} is installed. Reinstall the package."
        )
    library = _find(OP_LIBRARY, "The op library")
    registered = [name for name in OPS if _is_registered(name)]
    path = _loaded_copy(library) if registered else os.fspath(library)
    with _explained(library, "The op library"):
        module: types.ModuleType | None = tf.load_op_library(path) if path else None
    # TensorFlow generates no wrappers for ops that another library registered before.
    if module is None or (registered and not hasattr(module, "group_norm")):
        places = _mapped_files(named=library.name)
        raise ImportError(
            f"Another library in this process{f' ({places[0]})' if places else ''} has registered "
            f"the op {' and the op '.join(registered)} already. With {library} loaded too, "
            "TensorFlow would fail at the first call with `Multiple OpKernel registrations match "
            "NodeDef`. Do not load the other library: `import tensorflow_groupnorm` loads the ops. "
            "A plugin of TensorFlow is replaced with `tfgn install-plugin`."
        )
    return _Ops(module, path)


def _load_xla_or_raise() -> None:
    library = _find(_XLA_LIBRARY, "The library of the XLA kernels")
    if _loaded_copy(library) is not None:
        return
    # TensorFlow ends the process when an op gets a second XLA kernel.
    if places := _mapped_files(named=library.name):
        raise ImportError(
            f"Another build of the XLA kernels is in this process: {places[0]}. Do not load it: "
            "`import tensorflow_groupnorm` loads its own."
        )
    with _explained(library, "The library of the XLA kernels"):
        tf.load_library(os.fspath(library))


def _package() -> Path:
    """The folder of this package; in an editable install, those of its sources and its build."""
    return cast(Path, importlib.resources.files(__package__))


def _installed_minor() -> str:
    return ".".join(tf.__version__.split(".")[:2])


def _minors() -> list[str]:
    """The minors of TensorFlow that this installation has libraries for, oldest first."""
    matches = [_OF_MINOR.fullmatch(folder.name) for folder in _package().iterdir()]
    minors = [match.group(1) for match in matches if match]
    return sorted(minors, key=lambda minor: [int(number) for number in minor.split(".")])


def _build_of(minor: str) -> dict[str, Any]:
    """What the libraries for a minor were built from."""
    file = _package() / f"tf{minor}" / "build.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ImportError(
            f"What the libraries of tensorflow-groupnorm for TensorFlow {minor} are cannot be read "
            f"from {file}: {error}. Reinstall the package."
        ) from error


def _find(name: str, what: str) -> Path:
    """The library of that name for the installed TensorFlow."""
    library = _package() / f"tf{_installed_minor()}" / name
    if not library.is_file():
        raise ImportError(
            f"{what} of tensorflow-groupnorm is missing: {library}. Reinstall the package."
        )
    return library


@contextlib.contextmanager
def _explained(library: Path, what: str) -> Iterator[None]:
    """Turns what TensorFlow raises when it cannot load `library` into an ImportError."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise ImportError(
            f"{what} of tensorflow-groupnorm cannot be loaded into TensorFlow "
            f"{tf.__version__}: {error}. Reinstall the package."
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


def _mapped_files(named: str | None = None) -> list[Path]:
    """The shared objects that this process has loaded, or those of a name."""
    maps = Path("/proc/self/maps")
    text = maps.read_text() if maps.exists() else ""
    paths = [Path(path) for path in dict.fromkeys(re.findall(r" (/.*\.so\b.*)$", text, re.M))]
    return [path for path in paths if named in (None, path.name)]


def _loaded_copy(library: Path) -> str | None:
    """The file through which this very library is loaded already, wherever it lies.

    A copy in `tensorflow-plugins`, say. It serves as well as the package's own file, and two in
    one process do not go together.
    """
    for path in _mapped_files():
        if path.is_file() and filecmp.cmp(path, library, shallow=False):
            return os.fspath(path)
    return None
