"""The build's promises: who may include whom, what the wheel and the source archive hold."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# CMake and Ninja from PyPI lie beside the interpreter.
ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
}
# Whose headers a file of cc/<layer> may include; "" are those of no folder, the standard library's.
LAYERS = {
    "kernels": {"", "kernels", "hwy"},
    "tf": {"", "kernels", "tf", "tensorflow", "absl"},
    "xla": {"", "kernels", "tf", "xla", "tensorflow", "absl"},
    "native": {"", "kernels", "native", "pybind11", "hwy"},
}
CPP_FILES = sorted(
    path for path in (ROOT / "cc").rglob("*") if path.suffix in (".cc", ".h", ".cu", ".cuh")
)


def run(*command, **environment):
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=ENVIRONMENT | environment,
        cwd=ROOT,
        check=False,
    )


def test_every_layer_is_known():
    assert {path.relative_to(ROOT / "cc").parts[0] for path in CPP_FILES} == set(LAYERS)


@pytest.mark.parametrize("path", CPP_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_includes_point_downwards(path):
    allowed = LAYERS[path.relative_to(ROOT / "cc").parts[0]]
    included = re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.M)
    assert {name.rpartition("/")[0].partition("/")[0] for name in included} <= allowed


def test_framework_header_in_a_kernel_does_not_compile(tmp_path):
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("cmake", "cc"):
        shutil.copytree(ROOT / name, tmp_path / name)
    stray = tmp_path / "cc" / "kernels" / "group_norm.cc"
    stray.write_text('#include "tensorflow/core/framework/types.h"\n' + stray.read_text())

    build = tmp_path / "build"
    configure = run(
        *("cmake", "-G", "Ninja", "-S", tmp_path, "-B", build, "-DTFGN_PYTHON=OFF"),
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
    for option in ("--out", "--python", "--no-isolation"):
        assert option in help_text.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--oat", "x"], 2, "unknown argument '--oat'"),
        (["--out"], 2, "--out needs a value"),
        (["--python", "python9"], 1, "no such interpreter: python9"),
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
    for command in ("study", "test", "lint", "build", "setup"):
        assert f"  {command} " in help_text.stdout
    assert run("./dev", "tset").returncode == 2


def test_source_archive_holds_what_the_build_reads_and_nothing_it_wrote(tmp_path):
    hook = "import sys, scikit_build_core.build as b; b.build_sdist(sys.argv[1])"
    result = run(sys.executable, "-c", hook, tmp_path)
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("tensorflow_groupnorm-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in CPP_FILES}
    assert sources | {"CMakeLists.txt", "cmake/FindTensorFlow.cmake", "LICENSE"} <= names
    assert "python/tensorflow_groupnorm/_library.py" in names
    assert [name for name in names if name.endswith((".so", ".o", ".pyc"))] == []


@pytest.mark.slow
def test_wheel_holds_all_it_needs_and_runs(tmp_path):
    result = run(
        *("./build_pip_pkg.sh", "--no-isolation", "--python", sys.executable, "--out", tmp_path),
        SKBUILD_BUILD_DIR=str(ROOT / "build" / "{wheel_tag}"),  # Where ./dev compiles, too.
    )
    assert result.returncode == 0, result.stderr
    wheel = Path(result.stdout.strip())
    assert wheel.parent == tmp_path
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"tensorflow_groupnorm/_tfgn_{part}.so" for part in ("ops", "xla")} <= set(names)
    assert any(re.fullmatch(r"tensorflow_groupnorm/_native\..*\.so", name) for name in names)
    # TensorFlow's libraries are the installed TensorFlow's; Highway's header-only parts stay out.
    assert not any("libtensorflow" in name or name.endswith((".h", ".a")) for name in names)

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
