"""The dependencies of a wheel: those in pyproject.toml, with the TensorFlows that it was built for.

A provider of dynamic metadata for scikit-build-core. A source archive asks for every TensorFlow
that it can be built for; a wheel for those whose libraries it holds, as pip would otherwise install
it beside one that it has none for.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_VERSION = """
from importlib.metadata import PackageNotFoundError, version
for name in ("tensorflow", "tensorflow-cpu", "tf-nightly"):
    try:
        print(version(name))
        break
    except PackageNotFoundError:
        pass
"""


class Provider:
    """See https://pypi.org/project/dynamic-metadata for what a backend calls when."""

    _build_state = "wheel"

    def build_state(self, build_state: str):
        """Is told what is being built."""
        self._build_state = build_state

    def dynamic_wheel(self, settings: Mapping[str, Any]) -> dict[str, bool]:
        """Says which fields a wheel may have otherwise than the source archive."""
        return {"dependencies": True}

    def dynamic_metadata(self, settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict:
        """Answers the dependencies.

        Args:
            settings: `dependencies`, for the source archive.
            project: what of [project] is known.

        Returns:
            The field and its value.

        Raises:
            RuntimeError: if there is no TensorFlow to build for.
        """
        dependencies = list(settings["dependencies"])
        if self._build_state != "sdist":
            others = [entry for entry in dependencies if not entry.startswith("tensorflow")]
            dependencies = [tensorflow_requirement(_versions()), *others]
        return {"dependencies": dependencies}


def tensorflow_requirement(versions: Iterable[str]) -> str:
    """Asks for any of some minors of TensorFlow.

    Args:
        versions: one of each minor, such as 2.20.0 and 2.21.1.

    Returns:
        A requirement, such as `tensorflow>=2.20,<2.22`.
    """
    minors = sorted({tuple(map(int, version.split(".")[:2])) for version in versions})
    (first_major, first), (last_major, last) = minors[0], minors[-1]
    if first_major != last_major:
        raise RuntimeError(f"One wheel cannot serve TensorFlow {first_major} and {last_major}.")
    left_out = set(range(first, last)) - {minor for _, minor in minors}
    gaps = "".join(f",!={first_major}.{minor}.*" for minor in sorted(left_out))
    return f"tensorflow>={first_major}.{first},<{last_major}.{last + 1}{gaps}"


def _versions() -> list[str]:
    """The TensorFlows that CMake builds for, which has the same variable (pyproject.toml)."""
    pythons = os.environ.get("TFGN_TENSORFLOW_PYTHONS")
    if not pythons:
        return [_version([sys.executable])]
    return [
        # -E: the PYTHONPATH of pip's isolated builds is for the interpreter that runs the build.
        _foreign_version(Path(python)) if Path(python).is_dir() else _version([python, "-E"])
        for python in pythons.split(";")
    ]


def _foreign_version(folder: Path) -> str:
    """The version of a TensorFlow for another machine, which was installed into a folder."""
    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        if distribution.name == "tensorflow":
            return distribution.version
    raise RuntimeError(f"{folder} has no TensorFlow to build for")


def _version(python: list[str]) -> str:
    result = subprocess.run([*python, "-c", _VERSION], capture_output=True, text=True, check=True)
    if not result.stdout.strip():
        raise RuntimeError(f"{python[0]} has no TensorFlow to build for: pip install tensorflow")
    return result.stdout.strip()
