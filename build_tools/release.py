"""Prepares a release: `./dev release`.

Checks that the repository says what it releases, and names everything that is missing. `--build`
then builds the source archive and, from what that holds, the wheel, into dist/. `--tag` makes the
tag. Nothing is pushed or uploaded: pushing the tag starts .github/workflows/release.yml, which
builds again and publishes.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MINORS = ("2.19", "2.20", "2.21")
#: The newest glibc 2.x that the wheel may need: that of RHEL 9 and of Amazon Linux 2023.
GLIBC = 34
#: What of Highway's sources a build needs.
HIGHWAY_FILES = re.compile(
    r"CMakeLists\.txt|LICENSE.*|cmake/.*|hwy/hwy\.version"
    r"|hwy/tests/(?:hwy_gtest|list_targets|test_util).*"
    r"|hwy/(?!(?:contrib|examples|tests)/).*(?<!_test)\.(?:h|cc)"
)


def missing(root: Path, clean: bool = True) -> Iterator[str]:
    """Returns what a release lacks, in sentences.

    Args:
        root: the repository.
        clean: whether changes that are not committed are a fault.
    """
    project = (root / "pyproject.toml").read_text()
    version = _version(root)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield f"pyproject.toml has the version {version!r}, which is not like 1.2.3."
    changelog = (root / "CHANGELOG.md").read_text()
    if not re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", changelog, re.M):
        yield f"CHANGELOG.md has no section `## {version} - YYYY-MM-DD`."
    if re.search(r"^## Unreleased\n+(?!## )\S", changelog, re.M):
        yield "CHANGELOG.md has entries under Unreleased, which belong to this version."
    cited = _first(r"^version: (.*)$", (root / "CITATION.cff").read_text())
    if cited != version:
        yield f"CITATION.cff has the version {cited!r}, but pyproject.toml {version!r}."
    if not re.search(r"^\[project\.urls\]$", project, re.M):
        yield "pyproject.toml has no [project.urls]: where are the repository and the issues?"
    if _git(root, "tag", "--list", f"v{version}"):
        yield f"The tag v{version} exists: raise the version in pyproject.toml."
    if clean and (changes := _git(root, "status", "--porcelain", "--untracked-files=no")):
        count = len(changes.splitlines())
        files = "1 file has" if count == 1 else f"{count} files have"
        yield f"{files} changes that are not committed."


def _version(root: Path) -> str:
    return _first(r'^version = "(.*)"$', (root / "pyproject.toml").read_text())


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.M)
    return match[1] if match else ""


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
    ).stdout


def unpack_highway(archive: Path, folder: Path) -> None:
    """Unpacks what a build needs of Highway, after checking the archive.

    Args:
        archive: the release that cmake/Highway.cmake pins.
        folder: where to, without the first folder of the archive.

    Raises:
        ValueError: if it is another archive.
    """
    pinned = _first(r"SHA256=([0-9a-f]{64})", (ROOT / "cmake" / "Highway.cmake").read_text())
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != pinned:
        raise ValueError(
            f"{archive} has the SHA-256 {found}, and cmake/Highway.cmake pins {pinned}"
        )
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            member.name = member.name.partition("/")[2]
            if member.isfile() and HIGHWAY_FILES.fullmatch(member.name):
                tar.extract(member, folder, filter="data")


def build(highway: Path | None, minors: list[str]) -> Iterator[str]:
    """Builds the source archive and, from what it holds, the wheel, into dist/.

    Both hold what is committed. Nothing else is written to the repository.

    Args:
        highway: the archive of Highway's sources, which the source archive has to bring along, as
            a build may reach nothing but a package registry; None to download it.
        minors: the minors of TensorFlow that the wheel serves.

    Returns:
        What is wrong with the wheel, in sentences.
    """
    dist = ROOT / "dist"
    dist.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        committed, unpacked = Path(temporary, "committed"), Path(temporary, "unpacked")
        tree = Path(temporary, "committed.tar")
        _git(ROOT, "archive", "--format=tar", f"--output={tree}", "HEAD")
        _extract(tree, committed)
        if highway is None:
            highway = Path(temporary, "highway.tar.gz")
            cmake = (ROOT / "cmake" / "Highway.cmake").read_text()
            urllib.request.urlretrieve(_first(r"^  URL (https://\S+)$", cmake), highway)
        unpack_highway(highway, committed / "third_party" / "highway")
        backend = "import sys, scikit_build_core.build as b; print(b.build_sdist(sys.argv[1]))"
        output = subprocess.run(
            [sys.executable, "-c", backend, dist],
            cwd=committed,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        archive = dist / output.splitlines()[-1]
        print(archive, flush=True)
        _extract(archive, unpacked)
        script = unpacked / archive.name.removesuffix(".tar.gz") / "build_pip_pkg.sh"
        command = [script, "--no-isolation", "--python", sys.executable, "--out", dist]
        wheel = subprocess.run(
            [*command, "--tensorflow", *minors], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
    print(wheel, flush=True)
    needed = min(int(glibc) for glibc in re.findall(r"manylinux_2_(\d+)_", wheel))
    if needed > GLIBC:
        yield (
            f"The wheel needs glibc 2.{needed}, but RHEL 9 and Amazon Linux 2023 have 2.{GLIBC}: "
            "build it on Debian 12; `objdump -T` names the symbols of a library that are newer."
        )


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="./dev release", description=__doc__.partition("\n")[0])
    parser.add_argument("--build", action="store_true", help="build dist/*.tar.gz and dist/*.whl")
    parser.add_argument("--tag", action="store_true", help="make the tag, if nothing is missing")
    parser.add_argument(
        "--highway", type=Path, help="Highway's source archive; downloaded if not given"
    )
    parser.add_argument(
        "--tensorflow", nargs="+", default=list(MINORS), help="minors that the wheel serves"
    )
    args = parser.parse_args(argv)
    faults = []
    for fault in missing(ROOT):
        print(f"missing: {fault}", file=sys.stderr)
        faults.append(fault)
    if args.build:
        for fault in build(args.highway, args.tensorflow):
            print(f"wrong: {fault}", file=sys.stderr)
            faults.append(fault)
    if args.tag and not faults:
        version = _version(ROOT)
        _git(ROOT, "tag", "--annotate", f"v{version}", "--message", f"Version {version}")
        print(f"tagged v{version}; publish with `git push origin v{version}`")
    elif args.tag:
        print("no tag was made", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
