"""The installed software, and whether the fused ops are in use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from typing import Any

from tfgn_base import plugin


def collect() -> dict[str, Any]:
    """Describes the package, the machine and whether the fused ops are on.

    Returns:
        A dictionary for JSON: `tensorflow_groupnorm`, `tensorflow`, `keras`, `python` (versions),
        `machine`, `cores` (usable by this process), `gpus` (number), `onednn` (whether TensorFlow
        uses oneDNN; `None` if it does not say), `fused` (whether the fused ops are on), `reason`
        (why not, or `None`), `xla` (whether they compile under `jit_compile=True`), `xla_reason`
        (why not, or `None`), `plugin` (the copy of the op library that TensorFlow loads by itself,
        or `None`), `cpu_target` (`None` if the fused ops are off). `built_for` (a list of
        TensorFlow minors) and `cuda` (version of the toolkit, `""` for a CPU build) are `None` if
        the package has no libraries.

    Raises:
        ImportError: if the fused ops are off, and the environment variable `TFGN_REQUIRE_FUSED`
            is 1.
    """
    import keras
    import tensorflow as tf

    with warnings.catch_warnings():
        # The result says whether the ops are off; the import warns of it, too.
        warnings.simplefilter("ignore", RuntimeWarning)
        from tensorflow_groupnorm import _library

        reason, xla_reason = _library.load_error(), _library.xla_error()
    try:
        build = _library.build_info()
    except ImportError:
        build = {}
    copy = plugin.installed()
    return {
        "tensorflow_groupnorm": importlib.metadata.version("tensorflow-groupnorm"),
        "tensorflow": tf.__version__,
        "built_for": build.get("tensorflow_minors"),
        "keras": keras.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "onednn": uses_onednn(),
        "cpu_target": _library.cpu_target() if reason is None else None,
        "cuda": build.get("cuda"),
        "fused": reason is None,
        "reason": reason,
        "xla": xla_reason is None,
        "xla_reason": xla_reason,
        "plugin": None if copy is None else os.fspath(copy.path),
    }


def text(environment: dict[str, Any]) -> str:
    """Returns the result of `collect` as text.

    Args:
        environment: the result of `collect`.

    Returns:
        One line per fact.
    """
    unknown = "unknown: the package has no libraries"
    built = environment["built_for"] is not None
    cuda = f"built with CUDA {environment['cuda']}" if environment["cuda"] else "not built in"
    facts = {
        "tensorflow-groupnorm": environment["tensorflow_groupnorm"],
        "TensorFlow": environment["tensorflow"],
        "built for TensorFlow": ", ".join(environment["built_for"]) or "none" if built else unknown,
        "Keras": environment["keras"],
        "Python": environment["python"],
        "machine": f"{environment['machine']}, {environment['cores']} cores, "
        f"{environment['gpus']} GPUs",
        "TensorFlow's oneDNN": {True: "on", False: "off", None: "unknown"}[environment["onednn"]],
        "CPU target": environment["cpu_target"] or "unknown: the fused ops are off",
        "CUDA": cuda if built else unknown,
        "TensorFlow plugin": environment["plugin"] or "not installed",
        "XLA (jit_compile=True)": _on_or_off(environment["xla_reason"])
        if environment["fused"]
        else "of stock ops only",
        "fused ops": _on_or_off(environment["reason"]),
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:{width}}  {fact}" for name, fact in facts.items())


def uses_onednn() -> bool | None:
    """Returns whether TensorFlow uses the kernels of oneDNN, or None if it does not say.

    By default it does on newer x86 processors only. `TF_ENABLE_ONEDNN_OPTS` is 1 or 0 to choose.
    """
    try:
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:
        return None
    return bool(_pywrap_util_port.IsMklEnabled())


def _on_or_off(reason: str | None) -> str:
    return "on" if reason is None else f"off: {reason}"
