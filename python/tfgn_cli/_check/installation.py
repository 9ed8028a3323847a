"""Checks versions, libraries and plugins, without importing TensorFlow."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import site
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from packaging.requirements import Requirement
from packaging.version import Version
from tfgn_base import plugin
from tfgn_base.extras import DISTRIBUTION

from . import shared_objects
from .findings import Finding, failed, passed
from .shared_objects import SharedObject

REINSTALL = "Reinstall tensorflow-groupnorm."
_BUILD = "Use a newer distribution, or build here: `pip install .` in a clone of the repository."
#: The packages that hold TensorFlow. Two of them overwrite each other's files.
_TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tf-nightly")
#: Packages that meet a requirement although it does not name them.
_ALTERNATIVES = {"tensorflow": _TENSORFLOWS, "keras": ("keras", "keras-nightly")}
_MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64", "arm64": "EM_AARCH64"}


def check() -> Iterator[Finding]:
    """Checks the installation of the running interpreter."""
    yield from _requirements()
    yield from _libraries()
    yield from _plugins()


def _requirements() -> Iterator[Finding]:
    installed = {name: version for name in _TENSORFLOWS if (version := _version(name))}
    if len(installed) > 1:
        names = " and ".join(f"{name} {version}" for name, version in installed.items())
        yield failed(
            "package",
            "TensorFlow",
            f"{names} are installed, and overwrite each other's files",
            f"`pip uninstall {' '.join(installed)}`, then install one of them.",
        )
    for text in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        accepted = _ALTERNATIVES.get(requirement.name, (requirement.name,))
        version = next(filter(None, map(_version, accepted)), None)
        wanted = text.partition(";")[0].strip()
        # A nightly build of 2.22 counts as 2.22.
        if version and requirement.specifier.contains(Version(version).base_version):
            yield passed("package", wanted, version)
        else:
            yield failed(
                "package",
                wanted,
                f"{version or 'nothing'} is installed",
                f'`pip install "{wanted}"`',
            )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folders(package: str) -> list[Path]:
    """The folders of a package that is not imported; an editable install has several."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def _libraries() -> Iterator[Finding]:
    folders = sorted(
        (folder for parent in _folders("tensorflow_groupnorm") for folder in parent.glob("tf*.*")),
        key=lambda folder: [int(number) for number in re.findall(r"\d+", folder.name)],
    )
    if not folders:
        yield failed("libraries", "op library", "the package has no libraries", REINSTALL)
    for folder in folders:
        build = _build(folder)
        if isinstance(build, Finding):
            yield build
            continue
        names = [shared_objects.OPS, *([shared_objects.XLA] if build["xla"] else [])]
        names += [path.name for path in folder.glob("*.so") if path.name not in names]
        for name in names:
            yield _library(folder / name, build)


def _build(folder: Path) -> dict[str, Any] | Finding:
    """What the libraries in a folder were built from, or what is wrong with that."""
    try:
        build: dict[str, Any] = json.loads((folder / "build.json").read_text())
        version, tensorflow, *_ = (build[key] for key in ("version", "tensorflow", "xla", "cuda"))
    except (OSError, ValueError, KeyError) as error:
        return failed("libraries", folder.name, f"build.json cannot be read: {error!r}", REINSTALL)
    if version != (installed := _version(DISTRIBUTION)):
        return failed(
            "libraries",
            folder.name,
            f"they are of version {version}, but {installed} is installed",
            REINSTALL,
        )
    if _minor(tensorflow) != folder.name.removeprefix("tf"):
        return failed(
            "libraries", folder.name, f"they were built for TensorFlow {tensorflow}", REINSTALL
        )
    return build


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _library(path: Path, build: dict[str, Any]) -> Finding:
    name = f"{path.parent.name}/{path.name}"
    try:
        library = shared_objects.read(path)
    except (OSError, ELFError) as error:
        return failed("libraries", name, f"it cannot be read: {error}", REINSTALL)
    if path.name not in shared_objects.OF_TENSORFLOW or (
        path.name == shared_objects.XLA and not build["xla"]
    ):
        return failed("libraries", name, "no library of that name belongs there", f"Delete {path}.")
    if library.machine != _MACHINES.get(platform.machine(), library.machine):
        return failed(
            "libraries",
            name,
            f"it is for {library.machine}, but this machine is {platform.machine()}",
            "Install a wheel for this machine, or build here: `pip install .` in a clone.",
        )
    for clause in shared_objects.problems(path.name, library):
        return failed("libraries", name, f"it {clause}", REINSTALL)
    checks = (_unresolved(path, library), _too_new(library), _other_tensorflow(path, library))
    for problem in filter(None, checks):
        return failed("libraries", name, *problem)
    needed = sorted(n for n in library.needed if not shared_objects.SYSTEM.fullmatch(n))
    return passed(
        "libraries",
        name,
        f"links {', '.join(needed)}; glibc {_dotted(library.newest('GLIBC_'))}, "
        f"absl {', '.join(sorted(library.absl)) or 'not used'}",
    )


def _unresolved(path: Path, library: SharedObject) -> tuple[str, str] | None:
    """A library that is linked and cannot be found, with the remedy."""
    folders = [
        Path(os.path.abspath(place.replace("$ORIGIN", os.fspath(path.parent))))
        for place in library.places
    ]
    for name in sorted(library.needed):
        if any((folder / name).is_file() for folder in folders):
            continue
        if name.startswith("libtensorflow"):
            if any((folder / name).is_file() for folder in _folders("tensorflow")):
                continue  # In another folder than beside this package; Python loads it first.
            if path.parent.name != f"tf{_minor(_tensorflow_version() or '')}":
                continue  # It is not loaded into the installed TensorFlow.
            return f"{name} is not in the installed TensorFlow", "Reinstall TensorFlow."
        try:
            ctypes.CDLL(name)
        except OSError:
            return f"{name}, which it links, is not on this machine", REINSTALL
    return None


def _too_new(library: SharedObject) -> tuple[str, str] | None:
    """A system library that is older than the library needs, with the remedy."""
    runtime, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    here = tuple(map(int, version.split("."))) if runtime == "glibc" else ()
    needed = library.newest("GLIBC_")
    if needed > here:
        return f"it needs glibc {_dotted(needed)}, and this machine has {_dotted(here)}", _BUILD
    needed = library.newest("GLIBCXX_")
    here = _cxx_runtime()
    if needed > here:
        return (
            f"it needs GLIBCXX_{_dotted(needed)}, and the libstdc++ of this process has "
            f"{_dotted(here)}",
            _BUILD,
        )
    return None


def _cxx_runtime() -> tuple[int, ...]:
    """The newest symbol version of the C++ runtime that this process loads."""
    ctypes.CDLL("libstdc++.so.6")
    maps = Path("/proc/self/maps").read_text()
    found = re.search(r" (/\S*/libstdc\+\+\.so\.6\S*)$", maps, re.M)
    if found is None:
        raise OSError("libstdc++.so.6 is loaded, but /proc/self/maps does not show it")
    runtime = shared_objects.read(Path(found[1]), symbols=False)
    return shared_objects.newest(runtime.provides, "GLIBCXX_")


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers)) or "none"


def _tensorflow_version() -> str | None:
    return next(filter(None, map(_version, _TENSORFLOWS)), None)


def _other_tensorflow(path: Path, library: SharedObject) -> tuple[str, str] | None:
    """Another release of Abseil than that of the installed TensorFlow, with the remedy."""
    installed = _tensorflow_version()
    if installed is None or path.parent.name != f"tf{_minor(installed)}":
        return None
    for folder in _folders("tensorflow"):
        framework = folder / shared_objects.FRAMEWORK
        if framework.is_file():
            theirs = shared_objects.read(framework, symbols=False).absl
            if not library.absl <= theirs:
                return (
                    f"it needs absl {', '.join(sorted(library.absl))}, but TensorFlow {installed} "
                    f"has {', '.join(sorted(theirs)) or 'none'}",
                    "Install TensorFlow from PyPI, or build this package against yours: "
                    "`pip install . --no-build-isolation` in a clone of the repository.",
                )
    return None


def _plugin_folders() -> list[Path]:
    """Where TensorFlow looks for plugins at import."""
    parents = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    parents += [entry for entry in sys.path if "site-packages" in entry]
    parents += [*site.getsitepackages(), os.fspath(plugin.site_packages())]
    # lib64 may be a link to lib.
    return list(dict.fromkeys(Path(parent, plugin.FOLDER).resolve() for parent in parents))


def _plugins() -> Iterator[Finding]:
    found = False
    own = (plugin.site_packages() / plugin.FOLDER).resolve()
    for folder in _plugin_folders():
        for path in sorted(folder.glob("*tfgn_*.so*")) if folder.is_dir() else ():
            found = True
            yield _plugin(path, "`tfgn install-plugin --remove`" if folder == own else "")
    if not found:
        yield passed("plugin", "copies of the op library", "none")


def _plugin(path: Path, removal: str) -> Finding:
    name = path.name
    if path.suffix != ".so":
        return failed(
            "plugin",
            name,
            f"{path} is left from an installation that was interrupted",
            f"Delete {path}.",
        )
    copy = plugin.installed()
    if copy and copy.path.resolve() == path and (problem := copy.problem()):
        return failed("plugin", name, problem.partition(": run")[0], removal)
    sources = [
        folder / f"tf{_minor(_tensorflow_version() or '')}" / path.name
        for folder in _folders("tensorflow_groupnorm")
    ]
    if any(source.is_file() and source.read_bytes() == path.read_bytes() for source in sources):
        return passed("plugin", name, f"{path} is the library of this package")
    return failed(
        "plugin",
        name,
        f"{path} is not the library of this package for the installed TensorFlow",
        f"{removal}, or `tfgn install-plugin` to replace it" if removal else f"Delete {path}.",
    )
