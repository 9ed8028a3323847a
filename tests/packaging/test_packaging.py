"""The build's promises: who may include or import whom, what the wheel and the source archive hold.

The release wheel itself, in environments of its own, is for test_release.py.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import dependencies
import pytest
import tensorflow as tf
from paths import ROOT

# CMake and Ninja from PyPI lie beside the interpreter.
ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
}
# Whose headers a file of cc/<room> may include; "" are those of no folder, the standard library's
# and CUDA's.
ROOMS = {
    "kernels": {"", "kernels"},
    "kernels/cpu": {"", "kernels", "kernels/cpu", "hwy"},
    "kernels/cuda": {"", "kernels", "kernels/cuda"},
    "op": {"", "kernels", "kernels/cpu", "kernels/cuda", "op", "tensorflow", "absl"},
    "tf": {"", "kernels/cpu", "op", "tf", "tensorflow", "absl"},
    "xla": {"", "kernels", "op", "xla", "tensorflow", "absl"},
    "native": {"", "kernels", "kernels/cpu", "native", "pybind11"},
}
# What of python/ a package there may import, beside itself.
PACKAGES = {
    "tfgn_base": set(),
    "tensorflow_groupnorm": {"tfgn_base"},
    "tfgn_study": {"tfgn_base", "tensorflow_groupnorm"},
    "tfgn_cli": {"tfgn_base", "tensorflow_groupnorm", "tfgn_study"},
}
# What of tensorflow_groupnorm a module or package inside it may import, beside itself; those that
# are not listed import none of it. Type aliases are free to all.
MODULES = {
    "__init__": {
        "_conversion",
        "_export",
        "_folding",
        "_library",
        "clipping",
        "layers",
        "models",
        "ops",
        "stock",
    },
    "_export_mode": {"_keras"},
    "_gradients": {"_library", "stock"},
    "_vectorization": {"_library"},
    "ops": {"_export_mode", "_gradients", "_library", "_vectorization", "stock"},
    "layers": {"_export_mode", "_keras", "_library", "ops"},
    "models": {"_conversion", "layers"},
    "_conversion": {"_keras", "layers"},
    "_export": {"_export_mode", "_keras", "_library", "layers", "ops", "stock"},
    "_folding": {"_conversion", "_export", "_keras", "layers"},
}
TYPE_ALIASES = {"_types"}
CPP_FILES = sorted(
    path for path in (ROOT / "cc").rglob("*") if path.suffix in (".cc", ".h", ".cu", ".cuh")
)
PYTHON_FILES = sorted((ROOT / "python").rglob("*.py"))
LIBRARY = ROOT / "python" / "tensorflow_groupnorm"
LIBRARY_FILES = sorted(LIBRARY.rglob("*.py"))


def run(*command, **environment):
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=ENVIRONMENT | environment,
        cwd=ROOT,
        check=False,
    )


def room_of(path):
    return path.relative_to(ROOT / "cc").parent.as_posix()


def room_of_header(name):
    """The room of an included header; of one that is not this project's, its first folder."""
    folder = name.rpartition("/")[0]
    return folder if folder in ROOMS else folder.partition("/")[0]


def test_every_room_is_known():
    assert {room_of(path) for path in CPP_FILES} == set(ROOMS)


@pytest.mark.parametrize("path", CPP_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_includes_point_downwards(path):
    text = path.read_text()
    included = re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', text, re.M)
    # Highway includes the file that this names again for each instruction set.
    included += re.findall(r'^#define HWY_TARGET_INCLUDE "([^"]+)"', text, re.M)
    assert {room_of_header(name) for name in included} <= ROOMS[room_of(path)]


def imports(path):
    """The modules and names that a Python file imports, in functions too, by their whole names."""
    package = path.relative_to(ROOT / "python").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            module = [*parents, *filter(None, [node.module])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def test_every_package_is_known_and_installed():
    assert {path.relative_to(ROOT / "python").parts[0] for path in PYTHON_FILES} == set(PACKAGES)
    (installed,) = re.findall(
        r"^wheel\.packages = \[(.*?)\]$", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert set(re.findall(r'"(.*?)"', installed)) == {f"python/{name}" for name in PACKAGES}


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    package = path.relative_to(ROOT / "python").parts[0]
    imported = {name.partition(".")[0] for name in imports(path)} - {package}
    assert imported & PACKAGES.keys() <= PACKAGES[package]
    if package == "tfgn_base":
        assert imported <= sys.stdlib_module_names


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_within_the_library_point_downwards(path):
    module = path.relative_to(LIBRARY).with_suffix("").parts[0]
    names = [name.split(".") for name in imports(path)]
    imported = {name[1] for name in names if name[0] == LIBRARY.name} - {module}
    assert imported - TYPE_ALIASES <= MODULES.get(module, set())


@pytest.mark.compiles
def test_framework_header_in_a_kernel_does_not_compile(tmp_path):
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("cmake", "cc"):
        shutil.copytree(ROOT / name, tmp_path / name)
    stray = tmp_path / "cc" / "kernels" / "group_norm.cc"
    stray.write_text('#include "tensorflow/core/framework/types.h"\n' + stray.read_text())

    build = tmp_path / "build"
    configure = run(
        *("cmake", "-G", "Ninja", "-S", tmp_path, "-B", build),
        f"-DPython_EXECUTABLE={sys.executable}",
    )
    assert configure.returncode == 0, configure.stderr
    compile_kernel = run(
        "ninja", "-C", build, "CMakeFiles/tfgn_kernels.dir/cc/kernels/group_norm.cc.o"
    )
    assert compile_kernel.returncode != 0
    assert "tensorflow/core/framework/types.h: No such file" in compile_kernel.stdout


def test_wheel_script_explains_itself():
    help_text = run("./build_pip_pkg.sh", "--help")
    assert help_text.returncode == 0
    for option in ("--out", "--python", "--no-isolation", "--tensorflow", "--aarch64"):
        assert option in help_text.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--oat", "x"], 2, "unknown argument '--oat'"),
        (["--out"], 2, "--out needs a value"),
        (["--python", "python9"], 1, "no such interpreter: python9"),
        (["--tensorflow", "--out", "x"], 2, "--tensorflow needs a value"),
        (["--tensorflow", "2.20", "2.21.0"], 2, "minors such as 2.21, not '2.21.0'"),
        (["--aarch64", "--tensorflow", "2.21"], 2, "needs --tensorflow and --no-isolation"),
    ],
)
def test_wheel_script_refuses_in_one_line(arguments, status, message):
    result = run("./build_pip_pkg.sh", *arguments)
    assert result.returncode == status
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_dev_script_explains_itself():
    help_text = run("./dev", "--help")
    assert help_text.returncode == 0
    for command in ("study", "test", "lint", "docs", "release", "build", "setup"):
        assert f"  {command} " in help_text.stdout
    assert run("./dev", "tset").returncode == 2


def build_backend(hook, folder):
    """Runs a hook of the build backend in the root, as pip does."""
    code = f"import sys, scikit_build_core.build as backend; backend.{hook}(sys.argv[1])"
    result = run(sys.executable, "-c", code, folder)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    build_backend("build_sdist", folder)
    (archive,) = folder.glob("tensorflow_groupnorm-*.tar.gz")
    with tarfile.open(archive) as tar:
        yield {
            member.name.partition("/")[2]: tar.extractfile(member).read()
            for member in tar.getmembers()
            if member.isfile()
        }


def test_source_archive_holds_what_the_build_reads_and_nothing_it_wrote(source_archive):
    sources = {str(path.relative_to(ROOT)) for path in CPP_FILES}
    assert sources | {"CMakeLists.txt", "cmake/FindTensorFlow.cmake", "LICENSE"} <= set(
        source_archive
    )
    assert "python/tensorflow_groupnorm/_library.py" in source_archive
    assert "tests/packaging/test_packaging.py" in source_archive
    written = (".so", ".o", ".pyc", "build.json", ".whl", ".gz")
    assert [name for name in source_archive if name.endswith(written)] == []
    assert {name.partition("/")[0] for name in source_archive} <= {
        path.name for path in ROOT.iterdir() if path.name not in ("build", "dist", ".git")
    } | {"PKG-INFO"}


def test_source_archive_asks_for_any_tensorflow_and_says_that_a_wheel_may_not(source_archive):
    lines = source_archive["PKG-INFO"].decode().splitlines()
    assert "Requires-Dist: tensorflow>=2.19" in lines
    assert "Dynamic: Requires-Dist" in lines


def test_wheel_asks_for_the_minor_that_it_is_built_with(tmp_path):
    build_backend("prepare_metadata_for_build_wheel", tmp_path)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    major, minor = tf.__version__.split(".")[:2]
    asked = re.findall(r"^Requires-Dist: (tensorflow\b(?!-).*)$", metadata.read_text(), re.M)
    assert asked == [f"tensorflow<{major}.{int(minor) + 1},>={major}.{minor}"]


@pytest.mark.parametrize(
    ("versions", "requirement"),
    [
        (["2.21.0"], "tensorflow>=2.21,<2.22"),
        (["2.21.0", "2.19.1", "2.20.0"], "tensorflow>=2.19,<2.22"),
        (["2.19.1", "2.22.0rc1"], "tensorflow>=2.19,<2.23,!=2.20.*,!=2.21.*"),
        (["2.9.0", "2.10.1"], "tensorflow>=2.9,<2.11"),
    ],
)
def test_a_wheel_asks_for_its_minors_and_no_other(versions, requirement):
    assert dependencies.tensorflow_requirement(versions) == requirement


@pytest.mark.slow
@pytest.mark.compiles
def test_wheel_holds_all_it_needs_and_runs(tmp_path):
    result = run(
        *("./build_pip_pkg.sh", "--no-isolation", "--python", sys.executable, "--out", tmp_path),
        SKBUILD_BUILD_DIR=str(ROOT / "build" / "{cache_tag}"),  # Where ./dev compiles, too.
    )
    assert result.returncode == 0, result.stderr
    wheel = Path(result.stdout.strip())
    assert wheel.parent == tmp_path
    assert wheel.name.startswith("tensorflow_groupnorm-") and "-py3-none-manylinux_" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    libraries = f"tensorflow_groupnorm/tf{'.'.join(tf.__version__.split('.')[:2])}"
    assert {f"{libraries}/_tfgn_{part}.so" for part in ("ops", "xla")} <= set(names)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    # TensorFlow's libraries are the installed TensorFlow's; Highway's header-only parts stay out.
    assert not any("libtensorflow" in name or name.endswith((".h", ".a")) for name in names)

    for version in ("3.10", "3.11", "3.12", "3.13"):
        taken = run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-index", "--no-deps"),
            *("--only-binary=:all:", "--python-version", version, "--find-links", tmp_path),
            *("--dest", tmp_path / version, "tensorflow-groupnorm"),
        )
        assert taken.returncode == 0, taken.stderr
        assert [path.name for path in (tmp_path / version).iterdir()] == [wheel.name]

    # A fresh environment that borrows this one's TensorFlow.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site_packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    smoke = run(
        python,
        "-c",
        "import tensorflow_groupnorm as tfgn, tensorflow as tf; "
        "norm = tf.function(lambda x: tfgn.group_norm(x, groups=2), jit_compile=True); "
        "print(tfgn.__file__, norm(tf.ones([1, 4, 4])).shape)",
        TFGN_REQUIRE_FUSED="1",
    )
    assert smoke.returncode == 0, smoke.stderr
    assert smoke.stdout == f"{site_packages}/tensorflow_groupnorm/__init__.py (1, 4, 4)\n"


def test_a_wheel_for_another_machine_asks_for_the_tensorflow_in_a_folder(tmp_path, monkeypatch):
    metadata = tmp_path / "tensorflow-2.20.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.20.1\n")
    monkeypatch.setenv("TFGN_TENSORFLOW_PYTHONS", str(tmp_path))
    assert dependencies._versions() == ["2.20.1"]
    metadata.unlink()
    with pytest.raises(RuntimeError, match="has no TensorFlow to build for"):
        dependencies._versions()
