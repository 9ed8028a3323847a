"""`./dev release` names what a release lacks, and what it takes of Highway is what is pinned."""

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import release
from paths import ROOT


def git(folder, *arguments):
    subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True)


def commit_all(folder):
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--message=All")


@pytest.fixture
def repository(tmp_path):
    """A repository that lacks nothing."""
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    edit(tmp_path, "CHANGELOG.md", r"^## Unreleased\n(.*\n)*?(?=## \d)", "")
    project = tmp_path / "pyproject.toml"
    if "[project.urls]" not in project.read_text():
        project.write_text(project.read_text() + "\n[project.urls]\nRepository = 'somewhere'\n")
    git(tmp_path, "init", "--quiet")
    commit_all(tmp_path)
    return tmp_path


def edit(folder, name, pattern, replacement):
    text, count = re.subn(pattern, replacement, (folder / name).read_text(), flags=re.M)
    (folder / name).write_text(text)
    return count


def test_a_repository_that_lacks_nothing(repository):
    assert list(release.missing(repository)) == []


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "message"),
    [
        ("pyproject.toml", r"^version = .*", 'version = "9.8"', "which is not like 1.2.3"),
        ("pyproject.toml", r"^version = .*", 'version = "9.8.7"', "no section `## 9.8.7 - YYYY"),
        ("pyproject.toml", r"^\[project.urls\]", "[other]", "no [project.urls]"),
        ("CHANGELOG.md", r"\A", "## Unreleased\n\n- Something.\n\n", "entries under Unreleased"),
        ("CITATION.cff", r"^version: .*", "version: 0.0.1", "has the version '0.0.1', but pyp"),
    ],
)
def test_what_is_missing_is_named(repository, name, pattern, replacement, message):
    assert edit(repository, name, pattern, replacement) == 1
    assert any(message in sentence for sentence in release.missing(repository, clean=False))
    assert any("1 file has changes" in sentence for sentence in release.missing(repository))


def test_a_version_is_released_once(repository):
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    git(repository, "tag", f"v{version}")
    assert list(release.missing(repository)) == [
        f"The tag v{version} exists: raise the version in pyproject.toml."
    ]


@pytest.fixture
def highway(repository, tmp_path_factory, monkeypatch):
    """An archive that the repository pins, which has all that a source archive takes."""
    monkeypatch.setattr(release, "ROOT", repository)
    path = archive(tmp_path_factory.mktemp("highway"), ["CMakeLists.txt", "LICENSE"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (repository / "cmake").mkdir()
    (repository / "cmake" / "Highway.cmake").write_text(f"URL_HASH SHA256={digest}")
    for name in ("README.md", "LICENSE", "CMakeLists.txt"):
        shutil.copy(ROOT / name, repository)
    shutil.copytree(ROOT / "build_tools", repository / "build_tools")
    return path


def commit_script(repository, platform):
    """Commits all, with a `build_pip_pkg.sh` that lists the files beside it in dist/files."""
    script = repository / "build_pip_pkg.sh"
    script.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\nfind . -type f > "$5/files"\n'
        f'echo "$5/tensorflow_groupnorm-0.2.0-py3-none-{platform}.whl"\n'
    )
    script.chmod(0o755)
    commit_all(repository)


def test_what_is_built_is_what_is_committed(repository, highway):
    commit_script(repository, "manylinux_2_34_x86_64")
    (repository / "notes.txt").write_text("of the maintainer")
    edit(repository, "CITATION.cff", r"^version: .*", "version: 0.0.1")
    assert list(release.build(highway, ["2.21"])) == []
    (source,) = repository.glob("dist/*.tar.gz")
    with tarfile.open(source) as tar:
        (cited,) = (name for name in tar.getnames() if name.endswith("/CITATION.cff"))
        assert b"version: 0.0.1" not in tar.extractfile(cited).read()
    files = (repository / "dist" / "files").read_text().split()
    assert "./third_party/highway/CMakeLists.txt" in files and "./CITATION.cff" in files
    assert "./notes.txt" not in files
    assert not (repository / "third_party").exists()


@pytest.mark.parametrize(
    ("platform", "needed"),
    [("manylinux2014_x86_64.manylinux_2_17_x86_64", None), ("manylinux_2_35_x86_64", "2.35")],
)
def test_a_wheel_for_new_systems_alone_is_not_released(repository, highway, platform, needed):
    commit_script(repository, platform)
    wrong = list(release.build(highway, ["2.21"]))
    assert len(wrong) == (needed is not None)
    assert not wrong or f"needs glibc {needed}, but RHEL 9" in wrong[0]


def archive(folder, names):
    path = folder / "highway.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(f"highway-1.2.0/{name}"), io.BytesIO())
    return path


def test_of_highway_a_source_archive_gets_what_a_build_needs(tmp_path, monkeypatch):
    needed = ["CMakeLists.txt", "LICENSE", "hwy/base.h", "hwy/targets.cc", "hwy/ops/x86_128-inl.h"]
    others = ["hwy/base_test.cc", "hwy/tests/cast_test.cc", "hwy/contrib/sort/vqsort.h", "BUILD"]
    path = archive(tmp_path, needed + others)
    with pytest.raises(ValueError, match="cmake/Highway.cmake pins [0-9a-f]{64}"):
        release.unpack_highway(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pinned = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(release, "_first", lambda *_: pinned)
    release.unpack_highway(path, tmp_path / "out")
    found = [f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*.*")]
    assert sorted(found) == sorted(name for name in needed if "." in name)


def test_nothing_is_tagged_while_something_is_missing(repository, monkeypatch, capsys):
    monkeypatch.setattr(release, "ROOT", repository)
    edit(repository, "CITATION.cff", r"^version: .*", "version: 0.0.1")
    assert release.main(["--tag"]) == 1
    assert "missing: CITATION.cff" in capsys.readouterr().err
    assert release._git(repository, "tag") == ""
    git(repository, "checkout", "CITATION.cff")
    for name, value in (("user.name", "a"), ("user.email", "a@b.c")):
        git(repository, "config", name, value)
    assert release.main(["--tag"]) == 0
    assert release._git(repository, "tag").startswith("v")


def test_the_command_explains_itself():
    script = ROOT / "build_tools" / "release.py"
    result = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "--build" in result.stdout and "--tag" in result.stdout
