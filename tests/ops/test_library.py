"""Loading the op library: the warning if it cannot be used, and layers that work without it.

Each case runs in a fresh interpreter, because a library cannot be unloaded.
"""

import importlib.metadata
import importlib.resources
import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import release
import tensorflow as tf
from tensorflow_groupnorm import _library
from tfgn_cli._check import shared_objects

OP_LIBRARY, XLA_LIBRARY = "_tfgn_ops.so", "_tfgn_xla.so"
MINOR = ".".join(tf.__version__.split(".")[:2])
OTHER_TENSORFLOW = """
import tensorflow as tf
tf.__version__ = "2.99.1"
"""
# What TensorFlow moves without notice, as TFLite, which leaves it for another package.
WITHOUT_PRIVATE_MODULES = """
import sys
import tensorflow as tf
private = ("tensorflow.lite", "tensorflow.python.ops.parallel_for")
for name in [name for name in sys.modules if name.startswith(private)]:
    del sys.modules[name]
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(private):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
"""
# importlib.resources.files() is where the package looks for its library.
LIBRARY_FROM = """
import importlib.resources, pathlib
importlib.resources.files = lambda package: pathlib.Path({folder!r})
"""
IMPORT_AND_RUN = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import tensorflow as tf
    import tensorflow_groupnorm as tfgn
    from tensorflow_groupnorm import _library
    first, second = _library.load(), _library.load()
assert first is second
for warning in caught:
    if issubclass(warning.category, _library.FusedOpsUnavailableWarning):
        print("warning:", warning.message)
print("fused:", first is not None)
print("xla:", _library.xla_error())
y = tfgn.layers.GroupNormalization(2)(tf.reshape(tf.range(16.0), [1, 4, 4]))
print("mean below 1e-6:", abs(float(tf.reduce_mean(y))) < 1e-6)
"""


@pytest.fixture
def library():
    return importlib.resources.files("tensorflow_groupnorm") / f"tf{MINOR}" / OP_LIBRARY


@pytest.fixture
def package(library, tmp_path):
    """A folder for LIBRARY_FROM, with libraries for the installed TensorFlow and for another."""
    for name in (f"tf{MINOR}", "tf2.9"):
        (tmp_path / "package" / name).mkdir(parents=True)
        for source in (library.parent / "build.json", library, library.parent / XLA_LIBRARY):
            (tmp_path / "package" / name / source.name).symlink_to(source)
    return tmp_path / "package"


def replace(file, content):
    file.unlink()
    file.write_bytes(content)


def read(result):
    """Of a run of code that ends in IMPORT_AND_RUN: (whether fused, the warnings)."""
    assert result.returncode == 0, result.stderr
    assert "mean below 1e-6: True" in result.stdout
    fused = re.search(r"^fused: (True|False)$", result.stdout, re.M).group(1) == "True"
    return fused, re.findall(r"^warning: (.*)$", result.stdout, re.M)


def xla_error(result):
    return re.search(r"^xla: (.*)$", result.stdout, re.M).group(1)


def run_and_read(run_python, code, **environment):
    return read(run_python(code, **environment))


def test_loads_without_a_warning(run_python):
    result = run_python(IMPORT_AND_RUN)
    assert read(result) == (True, [])
    assert xla_error(result) == "None"


def test_other_tensorflow_minor_is_named_once_and_the_layers_go_on(run_python):
    fused, (warning,) = run_and_read(run_python, OTHER_TENSORFLOW + IMPORT_AND_RUN)
    assert not fused
    newest = _library.build_info()["tensorflow_minors"][-1]
    assert "2.99.1" in warning
    assert f"{newest}, but" in warning
    assert f'pip install "tensorflow=={newest}.*"' in warning


def test_the_layers_go_on_where_tensorflow_has_moved_private_modules(run_python):
    result = run_python(OTHER_TENSORFLOW + WITHOUT_PRIVATE_MODULES + IMPORT_AND_RUN)
    assert result.returncode == 0, result.stderr
    assert "fused: False" in result.stdout


def test_every_minor_that_would_do_is_listed_in_order(run_python, package):
    (package / "tf2.10").mkdir()
    code = OTHER_TENSORFLOW + LIBRARY_FROM.format(folder=str(package)) + IMPORT_AND_RUN
    fused, (warning,) = run_and_read(run_python, code + "print(tfgn.build_info())")
    assert not fused
    assert f"was built for TensorFlow 2.9, 2.10 and {MINOR}, but TensorFlow 2.99.1" in warning


def test_libraries_are_those_for_the_installed_minor(run_python, package):
    for file in (package / "tf2.9").iterdir():
        replace(file, b"for another TensorFlow")
    code = LIBRARY_FROM.format(folder=str(package)) + IMPORT_AND_RUN
    code += "info = tfgn.build_info(); print('info:', info['tensorflow'], info['xla'])"
    code += "; print('minors:', *info['tensorflow_minors'])"
    result = run_python(code)
    assert read(result) == (True, [])
    assert xla_error(result) == "None"
    version = _library.build_info()["tensorflow"]
    assert f"info: {version} True\nminors: 2.9 {MINOR}\n" in result.stdout


def test_require_fused_turns_the_warning_into_an_import_error(run_python):
    result = run_python(OTHER_TENSORFLOW + IMPORT_AND_RUN, TFGN_REQUIRE_FUSED="1")
    assert result.returncode == 1
    assert re.search(r"^ImportError: .* was built for TensorFlow .*2\.99\.1", result.stderr, re.M)


def test_package_without_libraries_says_so(run_python, tmp_path):
    code = LIBRARY_FROM.format(folder=str(tmp_path)) + IMPORT_AND_RUN
    fused, (warning,) = run_and_read(run_python, code)
    assert not fused
    assert f"is missing: {tmp_path} has no folder such as tf{MINOR}." in warning


def test_missing_library_is_named(run_python, package):
    (package / f"tf{MINOR}" / OP_LIBRARY).unlink()
    code = LIBRARY_FROM.format(folder=str(package)) + IMPORT_AND_RUN
    fused, (warning,) = run_and_read(run_python, code)
    assert not fused
    assert f"is missing: {package / f'tf{MINOR}' / OP_LIBRARY}" in warning


def test_library_that_does_not_load_is_explained(run_python, package):
    library = package / f"tf{MINOR}" / OP_LIBRARY
    replace(library, b"not a library")
    code = LIBRARY_FROM.format(folder=str(package)) + IMPORT_AND_RUN
    fused, (warning,) = run_and_read(run_python, code)
    assert not fused
    assert "cannot be loaded" in warning
    assert str(library) in warning


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing", marks=pytest.mark.thorough),
        pytest.param(b"{", id="cut off"),
        pytest.param(b"", id="empty", marks=pytest.mark.thorough),
    ],
)
def test_libraries_of_unknown_origin_are_not_loaded(run_python, package, content):
    file = package / f"tf{MINOR}" / "build.json"
    replace(file, content or b"")
    if content is None:
        file.unlink()
    code = LIBRARY_FROM.format(folder=str(package)) + IMPORT_AND_RUN
    fused, (warning,) = run_and_read(run_python, code)
    assert not fused
    assert f"cannot be read from {file}: " in warning


def test_libraries_of_another_version_of_the_package_are_not_loaded(run_python, package):
    file = package / f"tf{MINOR}" / "build.json"
    build = json.loads(file.read_text())
    replace(file, json.dumps(build | {"version": "0.0.9"}).encode())
    code = LIBRARY_FROM.format(folder=str(package)) + IMPORT_AND_RUN
    fused, (warning,) = run_and_read(run_python, code)
    assert not fused
    assert f"for TensorFlow {MINOR} in {package} are of tensorflow-groupnorm 0.0.9" in warning
    assert f"but version {build['version']} is installed." in warning


def test_another_build_of_the_library_is_not_joined_by_ours(run_python, library, tmp_path):
    other = tmp_path / OP_LIBRARY
    other.write_bytes(library.read_bytes() + b"another build")
    code = f"import tensorflow as tf; tf.load_op_library({str(other)!r})" + IMPORT_AND_RUN
    fused, (warning,) = run_and_read(run_python, code)
    assert not fused
    assert str(other) in warning
    assert "GroupNorm" in warning


@pytest.mark.parametrize(
    "name", [OP_LIBRARY, pytest.param("libplugin.so", marks=pytest.mark.thorough)]
)
def test_identical_copy_serves_in_place_of_ours(run_python, library, tmp_path, name):
    copy = tmp_path / name
    shutil.copy(library, copy)
    code = f"import tensorflow as tf; tf.load_op_library({str(copy)!r})" + IMPORT_AND_RUN
    assert run_and_read(run_python, code) == (True, [])


def test_the_same_file_twice_is_harmless(run_python, library):
    load = f"import tensorflow as tf; tf.load_op_library({str(library)!r})"
    assert run_and_read(run_python, load + IMPORT_AND_RUN + load) == (True, [])


@pytest.mark.parametrize("content", [None, b"not a library"], ids=["missing", "broken"])
def test_ops_go_on_without_their_xla_kernels(run_python, package, content):
    xla_library = package / f"tf{MINOR}" / XLA_LIBRARY
    replace(xla_library, content or b"")
    if content is None:
        xla_library.unlink()
    code = LIBRARY_FROM.format(folder=str(package)) + IMPORT_AND_RUN
    code += "print('supports_jit:', tfgn.layers.GroupNormalization(2).supports_jit)"
    result = run_python(code)
    fused, (warning,) = read(result)
    assert fused
    assert str(xla_library) in warning
    assert "do not compile under jit_compile=True" in warning
    assert xla_error(result) in warning
    assert "supports_jit: False" in result.stdout


def test_another_build_of_the_xla_kernels_is_not_joined_by_ours(run_python, library, tmp_path):
    other = tmp_path / XLA_LIBRARY
    other.write_bytes((library.parent / XLA_LIBRARY).read_bytes() + b"another build")
    code = f"""
import tensorflow as tf
tf.load_op_library({str(library)!r})
tf.load_library({str(other)!r})
"""
    fused, (warning,) = run_and_read(run_python, code + IMPORT_AND_RUN)
    assert fused
    assert str(other) in warning
    assert "Another build of the XLA kernels" in warning


def test_a_build_without_xla_kernels_says_so(monkeypatch):
    info = _library.build_info()
    monkeypatch.setattr(_library, "build_info", lambda: info | {"xla": False})
    _library._load_xla.cache_clear()
    try:
        assert "was built without XLA kernels" in _library.xla_error()
    finally:
        _library._load_xla.cache_clear()


def test_a_gpu_that_the_kernels_do_not_run_on_is_left_to_the_executor(monkeypatch):
    info = _library.build_info()
    monkeypatch.setattr(_library, "build_info", lambda: info | {"cuda": ""})
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
    assert "kernels for CPUs only" in _library.xla_error()


@pytest.mark.parametrize(
    "name, needs",
    [
        # Servers have no libtensorflow_cc.
        (OP_LIBRARY, {"libtensorflow_framework.so.2"}),
        (XLA_LIBRARY, {"libtensorflow_framework.so.2", "libtensorflow_cc.so.2"}),
    ],
)
def test_what_the_libraries_need_of_tensorflow(library, name, needs):
    dynamic = subprocess.run(
        ["readelf", "--dynamic", library.parent / name], capture_output=True, text=True, check=True
    ).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert {name for name in needed if "tensorflow" in name} == needs
    # RPATH in a release wheel, whose libraries auditwheel has been over.
    (runpath,) = re.findall(r"(?:RUNPATH|RPATH).*\[(.*)\]", dynamic)
    assert "$ORIGIN/../../tensorflow/" in runpath.split(":")


@pytest.mark.skipif(
    platform.libc_ver()[1] > "2.36", reason="releases are built on Debian 12, whose glibc is older"
)
@pytest.mark.parametrize("name", [OP_LIBRARY, XLA_LIBRARY])
def test_the_libraries_load_on_every_system_that_releases_serve(library, name):
    read = shared_objects.read(Path(library.parent / name))
    assert read.newest("GLIBC_") <= (2, release.GLIBC)
    assert read.newest("GLIBCXX_") <= (3, 4, 29)  # GCC 11, of the same systems


def test_build_info_tells_what_was_built():
    info = _library.build_info()
    assert info["version"] == importlib.metadata.version("tensorflow-groupnorm")
    assert MINOR in info["tensorflow_minors"]
    assert info["tensorflow"].startswith(f"{MINOR}.")
    assert re.match(r"\d+\.\d+\.\d+$", info["highway"])
    assert info["compiler"]
    assert isinstance(info["xla"], bool)
    assert isinstance(info["cuda"], str)


def test_cpu_target_is_one_of_highways():
    assert re.match(r"(AVX3|AVX2|SSE4|SSE2|NEON|EMU128|SCALAR)", _library.cpu_target())
