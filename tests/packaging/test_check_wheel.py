"""`build_tools/check_wheel.py`, which stops a release, on small wheels with one fault each."""

import json
import subprocess
import sys
import zipfile

import check_wheel
import pytest
from libraries import library
from paths import ROOT
from tfgn_cli._check.shared_objects import CC, FRAMEWORK, OF_COPIES, TENSORFLOW

pytestmark = pytest.mark.compiles

METADATA = "tensorflow_groupnorm-0.1.0.dist-info/METADATA"
WHEEL = "tensorflow_groupnorm-0.1.0.dist-info/WHEEL"
BUILD = "tensorflow_groupnorm/tf2.21/build.json"
OPS = "tensorflow_groupnorm/tf2.21/_tfgn_ops.so"
PLACES = (TENSORFLOW, *OF_COPIES)
HIGHWAY = "$ORIGIN/../../tensorflow_groupnorm.libs"


class Wheel:
    """A small wheel of one minor."""

    def __init__(self, folder):
        self.path = folder / "tensorflow_groupnorm-0.1.0-py3-none-manylinux_2_34_x86_64.whl"
        self.files = {
            METADATA: "Name: tensorflow-groupnorm\nVersion: 0.1.0\n"
            "Requires-Dist: tensorflow<2.22,>=2.21\n",
            WHEEL: "Wheel-Version: 1.0\nTag: py3-none-manylinux_2_34_x86_64\n",
            BUILD: json.dumps({"version": "0.1.0", "tensorflow": "2.21.0", "xla": False}),
            OPS: library((FRAMEWORK, "libhwy.so.1"), (*PLACES, HIGHWAY)),
            "tensorflow_groupnorm.libs/libhwy.so.1": library(()),
        }

    def write(self):
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, content in self.files.items():
                archive.writestr(name, content)
        return self.path


@pytest.fixture
def wheel(tmp_path):
    return Wheel(tmp_path)


def test_a_wheel_as_it_must_be_passes_the_check(wheel):
    report = check_wheel.check(wheel.write())
    assert "tensorflow>=2.21,<2.22" in report
    assert "_tfgn_ops.so" in report and "libhwy.so.1 libtensorflow_framework.so.2" in report


@pytest.mark.parametrize(
    ("needed", "runpath", "message"),
    [
        ((), PLACES, "links nothing of TensorFlow, but must link"),
        ((FRAMEWORK, CC), PLACES, r"links \['libtensorflow_cc.so.2', "),
        ((FRAMEWORK,), ("$ORIGIN/../tensorflow/",), "but not in .ORIGIN/../../tensorflow/"),
        ((FRAMEWORK,), PLACES[:-1], r"but not in .ORIGIN/\.\./tensorflow_groupnorm\.libs"),
        ((FRAMEWORK,), (*PLACES, "/home/me"), "/home/me, a folder of this machine"),
        ((FRAMEWORK, "libz.so.1"), PLACES, "links libz.so.1, which is neither"),
        ((FRAMEWORK, "libhwy.so.1"), PLACES, "not in ../../tensorflow_groupnorm.libs"),
    ],
)
def test_a_library_that_links_what_it_must_not_stops_the_release(wheel, needed, runpath, message):
    wheel.files[OPS] = library(needed, runpath)
    with pytest.raises(check_wheel.WheelError, match=message):
        check_wheel.check(wheel.write())


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("tensorflow_groupnorm.libs/libtensorflow_framework-1a2b.so.2", "", "", "part of TensorFl"),
        ("tensorflow_groupnorm.libs/libz-1a2b.so.1", "", "", "somebody else's"),
        ("tensorflow_groupnorm/ops.h", "", "", "which nobody needs at run time"),
        ("tensorflow_groupnorm/tf2.21/_tfgn_xla.so", "", "", "tf2.21 has _tfgn_xla.so"),
        ("tensorflow_groupnorm/_native.cpython-311-x86_64-linux-gnu.so", "", "", "one version of"),
        ("tensorflow_groupnorm/_native.so", "", "", "one version of Python"),
        (WHEEL, "py3-none", "cp311-cp311", "tagged cp311-cp311-manylinux_2_34_x86_64, not py3-"),
        (BUILD, "false", "true", "tf2.21 lacks _tfgn_xla.so"),
        (BUILD, "2.21", "2.20", "libraries for TensorFlow 2.20"),
        (BUILD, "0.1.0", "0.0.9", "is of version 0.0.9, the re"),
        (METADATA, ">=2.21", ">=2.20", "it asks for "),
        (METADATA, "tensorflow<", "jax<", r"asks for \[\]"),
    ],
)
def test_a_wheel_that_holds_or_asks_for_what_it_must_not_is_not_released(
    wheel, name, old, new, message
):
    content = wheel.files.get(name, "")
    assert old in content
    wheel.files[name] = content.replace(old, new) if old else content
    with pytest.raises(check_wheel.WheelError, match=message):
        check_wheel.check(wheel.write())


def test_a_wheel_that_is_tagged_for_one_machine_is_not_released(wheel):
    wheel.path = wheel.path.with_name("tensorflow_groupnorm-0.1.0-py3-none-linux_x86_64.whl")
    with pytest.raises(check_wheel.WheelError, match="it is tagged py3-none-linux_x86_64, not"):
        check_wheel.check(wheel.write())


@pytest.mark.parametrize("name", ["PyList_New", "_Py_Dealloc"])
def test_a_library_that_needs_one_python_stops_the_release(wheel, name):
    code = f'extern "C" void* {name}(long);\nvoid* F() {{ return {name}(0); }}\n'
    wheel.files[OPS] = library((FRAMEWORK,), PLACES, code)
    with pytest.raises(check_wheel.WheelError, match=f"needs {name} of the Python that loads it"):
        check_wheel.check(wheel.write())


def test_a_wheel_that_is_too_large_is_not_released(wheel, monkeypatch):
    monkeypatch.setattr(check_wheel, "LARGEST_WHEEL", 1 << 10)
    with pytest.raises(check_wheel.WheelError, match="PyPI takes at most 0.0 MiB"):
        check_wheel.check(wheel.write())


def test_the_check_ends_in_one_sentence(wheel):
    wheel.files[OPS] = library(())
    command = [sys.executable, ROOT / "build_tools" / "check_wheel.py", wheel.write()]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "is not fit for release: tensorflow_groupnorm/tf2.21/_tfgn_ops.so" in result.stderr
    assert result.stderr.count("\n") == 1
