"""Checks what a release wheel holds, links to and asks for: `check_wheel.py WHEEL`.

Prints the wheel's libraries, and fails with a sentence at the first thing that is not as it must
be. What a library must link is stated in `tfgn_cli/_check/shared_objects.py`, which `tfgn check`
uses, too. Needs `python/` in PYTHONPATH, and pyelftools.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import zipfile
from pathlib import Path

from dependencies import tensorflow_requirement
from tfgn_cli._check import shared_objects
from tfgn_cli._check.shared_objects import GRAFTED, SYSTEM

# The largest file that PyPI takes without asking. TensorFlow inside, and it is four times that.
LARGEST_WHEEL = 100 << 20
TAG = "py3-none-manylinux"


class WheelError(Exception):
    """What is wrong with a wheel, in a sentence."""


def check(wheel: Path) -> str:
    """Checks a wheel.

    Args:
        wheel: its file.

    Returns:
        What it holds, for people.

    Raises:
        WheelError: at the first thing that is wrong.
    """
    size = wheel.stat().st_size
    if size > LARGEST_WHEEL:
        raise WheelError(f"it has {_mib(size)}, and PyPI takes at most {_mib(LARGEST_WHEEL)}")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        files = {path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file()}
        libraries = sorted(path for path in files if ".so" in path.suffixes)
        _check_names(files)
        _check_tags(wheel, Path(folder))
        lines = [f"{wheel.name}: {_mib(size)}, {_check_minors(Path(folder), files)}"]
        for library in libraries:
            needed = _check_links(Path(folder), library, files)
            length = _mib((Path(folder) / library).stat().st_size)
            lines.append(f"  {library}  {length}  {' '.join(sorted(needed)) or '-'}")
    return "\n".join(lines)


def _check_names(files: set[Path]):
    for path in sorted(files):
        if path.name.startswith("libtensorflow"):
            raise WheelError(f"it holds a part of TensorFlow, {path}")
        if path.parts[0] == GRAFTED and not path.name.startswith("libhwy"):
            raise WheelError(f"it holds a library of somebody else's that is not Highway, {path}")
        if path.suffix in (".h", ".a", ".o", ".pyc"):
            raise WheelError(f"it holds {path}, which nobody needs at run time")
        if path.suffix == ".so" and (len(path.suffixes) > 1 or path.stem == "_native"):
            raise WheelError(f"it holds {path}, a module for one version of Python")


def _check_tags(wheel: Path, folder: Path):
    """Checks that pip takes it for every version of Python, by its name and by what it holds."""
    (metadata,) = folder.glob("*.dist-info/WHEEL")
    tags = re.findall(r"^Tag: (.*)$", metadata.read_text(), re.M)
    for tag in ["-".join(wheel.stem.split("-")[2:]), *tags]:
        if not tag.startswith(TAG):
            raise WheelError(f"it is tagged {tag}, not {TAG}_...")


def _check_minors(folder: Path, files: set[Path]) -> str:
    """Checks what it says about TensorFlow against its libraries; returns its requirement."""
    (metadata,) = folder.glob("*.dist-info/METADATA")
    version = re.search(r"^Version: (.*)$", metadata.read_text(), re.M).group(1)
    versions = []
    for path in sorted(folder.glob("tensorflow_groupnorm/tf*")):
        build = json.loads((path / "build.json").read_text())
        versions.append(build["tensorflow"])
        if path.name != "tf" + ".".join(versions[-1].split(".")[:2]):
            raise WheelError(f"{path.name} holds libraries for TensorFlow {versions[-1]}")
        if build["version"] != version:
            raise WheelError(f"{path.name} is of version {build['version']}, the rest of {version}")
        for name, expected in (("_tfgn_ops.so", True), ("_tfgn_xla.so", build["xla"])):
            if ((path / name).relative_to(folder) in files) != expected:
                raise WheelError(f"{path.name} {'lacks' if expected else 'has'} {name}")
    if not versions:
        raise WheelError("it holds libraries for no TensorFlow")
    requirement = tensorflow_requirement(versions)
    asked = re.findall(r"^Requires-Dist: (tensorflow[<>=!~].*)$", metadata.read_text(), re.M)
    if [_specifiers(entry) for entry in asked] != [_specifiers(requirement)]:
        raise WheelError(f"it asks for {asked}, but has libraries for {requirement}")
    return requirement


def _check_links(folder: Path, library: Path, files: set[Path]) -> set[str]:
    """Checks what a library needs and where it looks for that; returns what is not the system's."""
    found = shared_objects.read(folder / library)
    # Of pybind11 or Python's C API, which differs from version to version.
    for symbol in sorted(found.undefined):
        if re.match(r"_?Py[A-Z_]", symbol):
            raise WheelError(f"{library} needs {symbol} of the Python that loads it")
    for clause in shared_objects.problems(library.name, found):
        raise WheelError(f"{library} {clause}")
    needed = {name for name in found.needed if not SYSTEM.fullmatch(name)}
    places = list(found.places)
    for name in sorted(needed):
        if name.startswith("libtensorflow"):
            continue
        if Path(GRAFTED, name) not in files:
            raise WheelError(f"{library} links {name}, which is neither inside nor on every Linux")
        inside = Path(os.path.relpath(GRAFTED, library.parent))
        if library.parts[0] != GRAFTED and f"$ORIGIN/{inside}" not in places:
            raise WheelError(f"{library} looks for libraries in {places}, but not in {inside}")
    for place in places:
        if place.partition("/")[0] != "$ORIGIN":
            raise WheelError(f"{library} looks for libraries in {place}, a folder of this machine")
    return needed


def _specifiers(requirement: str) -> set[str]:
    return set(requirement.removeprefix("tensorflow").replace(" ", "").split(","))


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


if __name__ == "__main__":
    try:
        print(check(Path(sys.argv[1])))
    except WheelError as error:
        sys.exit(f"{sys.argv[1]} is not fit for release: {error}.")
