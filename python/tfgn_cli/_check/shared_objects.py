"""Reads shared objects, and says what a library of this package must link.

`build_tools/check_wheel.py` applies the same rules to a wheel before a release.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection

_Section = TypeVar("_Section")

OPS, XLA = "_tfgn_ops.so", "_tfgn_xla.so"
FRAMEWORK, CC = "libtensorflow_framework.so.2", "libtensorflow_cc.so.2"
#: What a library links of TensorFlow. Servers have no libtensorflow_cc.
OF_TENSORFLOW = {OPS: {FRAMEWORK}, XLA: {FRAMEWORK, CC}}
#: The folder of the libraries that a wheel brings along, beside the packages.
GRAFTED = "tensorflow_groupnorm.libs"
#: Where a library in `tensorflow_groupnorm/tf2.21` finds TensorFlow.
TENSORFLOW = "$ORIGIN/../../tensorflow/"
#: Where a copy, anywhere or in site-packages/tensorflow-plugins, finds what a wheel brings along.
OF_COPIES = ("$ORIGIN", f"$ORIGIN/../{GRAFTED}")
#: What every Linux has, or the C++ runtime that TensorFlow's own wheel needs of it, too.
SYSTEM = re.compile(
    r"(ld-linux-.*|lib(c|dl|m|pthread|rt))\.so\.\d+|libstdc\+\+\.so\.6|libgcc_s\.so\.1"
)


@dataclasses.dataclass(frozen=True)
class SharedObject:
    """What the dynamic loader needs to know about a shared object.

    Attributes:
        machine: the architecture, such as `"EM_X86_64"`.
        needed: the libraries that it links (DT_NEEDED).
        places: where it looks for them (DT_RUNPATH or DT_RPATH).
        undefined: the symbols that it takes from other libraries.
        versions: the symbol versions that it takes from other libraries, such as `"GLIBC_2.34"`.
        provides: the symbol versions that it defines.
        absl: the releases of Abseil in the names of symbols, such as `"20250814"`.
    """

    machine: str
    needed: frozenset[str]
    places: tuple[str, ...]
    undefined: frozenset[str]
    versions: frozenset[str]
    provides: frozenset[str]
    absl: frozenset[str]

    def newest(self, prefix: str) -> tuple[int, ...]:
        """Returns the newest version that it takes of a library, `()` if none.

        Args:
            prefix: what the versions start with, such as `"GLIBC_"`.
        """
        return newest(self.versions, prefix)


def newest(versions: frozenset[str], prefix: str) -> tuple[int, ...]:
    """Returns the largest of the symbol versions with a prefix as numbers, `()` if none."""
    matches = [re.fullmatch(rf"{prefix}(\d+(?:\.\d+)*)", version) for version in versions]
    return max((tuple(map(int, match[1].split("."))) for match in matches if match), default=())


def read(path: Path, symbols: bool = True) -> SharedObject:
    """Reads a shared object.

    Args:
        path: the file.
        symbols: whether to read `undefined`, which takes seconds for a library as large as
            TensorFlow's.

    Returns:
        Its description.

    Raises:
        OSError: if the file cannot be read.
        ELFError: if it is not an ELF file.
    """
    with path.open("rb") as file:
        elf = ELFFile(file)
        dynamic = _section(elf, ".dynamic", DynamicSection)
        table = _section(elf, ".dynsym", SymbolTableSection)
        tags: list[Any] = list(dynamic.iter_tags())
        runpaths = [tag.runpath for tag in tags if tag.entry.d_tag == "DT_RUNPATH"]
        runpaths += [tag.rpath for tag in tags if tag.entry.d_tag == "DT_RPATH"]
        return SharedObject(
            machine=elf["e_machine"],
            needed=frozenset(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"),
            places=tuple(place for runpath in runpaths for place in runpath.split(":")),
            undefined=frozenset(
                symbol.name
                for symbol in (table.iter_symbols() if symbols else ())
                if symbol["st_shndx"] == "SHN_UNDEF"
            ),
            versions=_version_names(elf, ".gnu.version_r", GNUVerNeedSection),
            provides=_version_names(elf, ".gnu.version_d", GNUVerDefSection),
            absl=frozenset(
                release.decode()
                for release in re.findall(rb"absl\d+lts_(\d{8})", table.stringtable.data())
            ),
        )


def _section(elf: ELFFile, name: str, kind: type[_Section]) -> _Section:
    section = elf.get_section_by_name(name)
    if not isinstance(section, kind):
        raise ELFError(f"it has no section {name}")
    return section


def _version_names(
    elf: ELFFile, name: str, kind: type[GNUVerNeedSection | GNUVerDefSection]
) -> frozenset[str]:
    if elf.get_section_by_name(name) is None:
        return frozenset()
    entries = _section(elf, name, kind).iter_versions()
    return frozenset(auxiliary.name for _, names in entries for auxiliary in names)


def problems(name: str, library: SharedObject) -> Iterator[str]:
    """Returns what is wrong with the links of a library of this package, in clauses.

    Args:
        name: its file name. The rules are for `OPS` and `XLA`; other libraries must link nothing
            of TensorFlow.
        library: the library.
    """
    of_tensorflow = {needed for needed in library.needed if needed.startswith("libtensorflow")}
    expected = OF_TENSORFLOW.get(name, set())
    if of_tensorflow != expected:
        yield (
            f"links {sorted(of_tensorflow) or 'nothing'} of TensorFlow, but must link "
            f"{sorted(expected) or 'nothing'}"
        )
    for place in (TENSORFLOW, *OF_COPIES) if expected else ():
        if place not in library.places:
            yield f"looks for libraries in {list(library.places)}, but not in {place}"
