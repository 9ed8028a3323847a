"""`tfgn check`: what it finds in installations with one fault each, and that this one has none."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_groupnorm as tfgn
import tfgn_cli
from libraries import library
from tfgn_base import plugin
from tfgn_cli import _processes
from tfgn_cli._check import calls, findings, installation, ops, shared_objects
from tfgn_cli._check.limits import DTYPES, limit
from tfgn_cli._check.shared_objects import CC, FRAMEWORK, OF_COPIES, OPS, TENSORFLOW, XLA

MINOR = ".".join(installation._tensorflow_version().split(".")[:2])
VERSION = tfgn.__version__
PLACES = (TENSORFLOW, *OF_COPIES)
OTHER_ABSL = (
    "namespace absl { inline namespace lts_20010101 { void F(); } } void G() { absl::F(); }"
)
ENVIRONMENT = {
    "tensorflow": "2.21.0",
    "cpu_target": "AVX3",
    "reason": None,
    "xla_reason": None,
    "fused": True,
    "xla": True,
    "gpus": 0,
    "cuda": "",
}


class Package:
    """A folder that stands for the installed package, with fields of build.json to change."""

    def __init__(self, folder):
        self.folder = folder / "tensorflow_groupnorm" / f"tf{MINOR}"
        self.folder.mkdir(parents=True)
        self.build = {"version": VERSION, "tensorflow": f"{MINOR}.0", "xla": True, "cuda": ""}
        (folder / "tensorflow").mkdir()
        self.tensorflow = folder / "tensorflow"

    def write(self, name, content):
        (self.folder / name).write_bytes(content)

    def findings(self):
        (self.folder / "build.json").write_text(json.dumps(self.build))
        return list(installation._libraries())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that is as it must be."""
    made = Package(tmp_path)
    made.write(OPS, library((FRAMEWORK,), PLACES))
    made.write(XLA, library((FRAMEWORK, CC), PLACES))
    for name in (FRAMEWORK, CC):
        (made.tensorflow / name).write_bytes(library(()))
    monkeypatch.setattr(installation, "_folders", lambda name: [tmp_path / name])
    return made


def failures(found):
    return [f"{f.name}: {f.detail} -> {f.remedy}" for f in found if f.status == findings.FAILED]


def test_this_installation_has_no_fault():
    found = list(installation.check())
    assert failures(found) == []
    names = [finding.name for finding in found]
    assert {f"tf{MINOR}/{OPS}", f"tf{MINOR}/{XLA}", "copies of the op library"} <= set(names)
    assert any(name.startswith("keras>=3.12") for name in names)
    (ops_library,) = (finding for finding in found if finding.name == f"tf{MINOR}/{OPS}")
    assert FRAMEWORK in ops_library.detail and "absl 20" in ops_library.detail


@pytest.mark.compiles
def test_libraries_as_they_must_be_pass(package):
    found = package.findings()
    assert [(f.name, f.status) for f in found] == [
        (f"tf{MINOR}/{OPS}", "ok"),
        (f"tf{MINOR}/{XLA}", "ok"),
    ]


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((FRAMEWORK, CC), PLACES), f"it links ['{CC}', '{FRAMEWORK}'] of TensorFlow, but must"),
        (((FRAMEWORK,), PLACES[:1]), "but not in $ORIGIN -> Reinstall"),
        (((FRAMEWORK, "libnowhere.so.1"), PLACES), "libnowhere.so.1, which it links, is not on"),
        (((FRAMEWORK,), PLACES, OTHER_ABSL), "it needs absl 20010101, but TensorFlow"),
    ],
)
def test_library_that_does_not_fit_is_found(package, arguments, message):
    package.write(OPS, library(*arguments))
    (failure,) = failures(package.findings())
    assert failure.startswith(f"tf{MINOR}/{OPS}: ") and message in failure


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("owner", "name", "value", "message"),
    [
        (os, "confstr", lambda _: "glibc 2.1", "and this machine has 2.1 -> Use a newer distr"),
        (installation, "_cxx_runtime", lambda: (3, 4, 0), "libstdc++ of this process has 3.4.0"),
        (platform, "machine", lambda: "aarch64", "for EM_X86_64, but this machine is aarch64"),
        (installation, "_folders", lambda _: [], "the package has no libraries -> Reinstall"),
    ],
)
def test_machine_that_does_not_fit_is_found(package, monkeypatch, owner, name, value, message):
    if platform.machine() != "x86_64":
        pytest.skip("the messages are those of x86-64")
    code = "#include <string>\nstd::string F(int i) { return std::to_string(i); }"
    package.write(OPS, library((FRAMEWORK,), PLACES, code))
    package.write(XLA, library((FRAMEWORK, CC), PLACES, code))
    monkeypatch.setattr(owner, name, value)
    found = failures(package.findings())
    assert found and all(message in failure for failure in found)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", "0.0.9", f"of version 0.0.9, but {VERSION} is installed -> Reinstall"),
        ("tensorflow", "1.15.0", "built for TensorFlow 1.15.0 -> Reinstall"),
        ("cuda", None, "build.json cannot be read: KeyError('cuda') -> Reinstall"),
        ("xla", False, f"{XLA}: no library of that name belongs there -> Delete"),
    ],
)
def test_description_that_does_not_fit_is_found(package, field, value, message):
    package.build[field] = value
    if value is None:
        del package.build[field]
    (failure,) = failures(package.findings())
    assert message in failure


@pytest.mark.compiles
def test_missing_and_broken_files_are_found(package):
    (package.folder / XLA).unlink()
    package.write(OPS, b"not a library")
    (package.tensorflow / CC).unlink()
    broken, missing = failures(package.findings())
    assert broken.startswith(f"tf{MINOR}/{OPS}: it cannot be read: ")
    assert missing.startswith(f"tf{MINOR}/{XLA}: it cannot be read: ")
    package.write(XLA, library((FRAMEWORK, CC), PLACES))
    assert "is not in the installed TensorFlow -> Reinstall Ten" in failures(package.findings())[1]


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"tensorflow": "2.21.0"}, []),
        ({"tensorflow-cpu": "2.21.0"}, []),
        ({"tf-nightly": "2.19.0.dev20250101"}, []),
        ({"tensorflow": "2.18.0"}, ['2.18.0 is installed -> `pip install "tensorflow>=2.19']),
        ({}, ['nothing is installed -> `pip install "tensorflow>=2.19']),
        (
            {"tensorflow": "2.21.0", "tensorflow-cpu": "2.20.0"},
            ["overwrite each other's files -> `pip uninstall tensorflow tensorflow-cpu`"],
        ),
    ],
)
def test_requirements(installed, expected, monkeypatch):
    monkeypatch.setattr(installation, "_version", installed.get)
    wanted = ["tensorflow>=2.19,<2.22", "pytest>=8; extra == 'test'"]
    monkeypatch.setattr(installation.importlib.metadata, "requires", lambda _: wanted)
    found = failures(installation._requirements())
    assert len(found) == len(expected)
    assert all(text in failure for text, failure in zip(expected, found, strict=True))


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """The folder of plugins of an environment of its own."""
    folder = tmp_path / plugin.FOLDER
    folder.mkdir()
    monkeypatch.setattr(plugin, "site_packages", lambda: tmp_path)
    monkeypatch.setattr(installation, "_plugin_folders", lambda: [folder])
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (OPS, "is not the library of this package for the installed TensorFlow -> `tfgn install"),
        (f"{OPS}.replaced", "is left from an installation that was interrupted -> Delete /"),
    ],
)
def test_copies_that_are_left_behind_are_found(plugins, name, message):
    (plugins / name).write_bytes(b"another build")
    (failure,) = failures(installation._plugins())
    assert message in failure


def test_the_copy_of_this_library_passes(plugins):
    (plugins / OPS).write_bytes(Path(tfgn.plugin_path()).read_bytes())
    (finding,) = installation._plugins()
    assert finding.status == findings.PASSED


def test_each_folder_of_plugins_is_looked_at_once(tmp_path, monkeypatch):
    tmp_path = tmp_path.resolve()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib64").symlink_to("lib")
    packages = [str(tmp_path / name) for name in ("lib", "lib64")]
    monkeypatch.setattr(installation.site, "getsitepackages", lambda: packages)
    folders = installation._plugin_folders()
    assert folders.count(tmp_path / "lib" / plugin.FOLDER) == 1
    assert tmp_path / "lib64" / plugin.FOLDER not in folders
    assert (plugin.site_packages() / plugin.FOLDER).resolve() in folders


def test_a_plugin_that_breaks_tensorflow_is_reported_without_tensorflow(
    plugins, monkeypatch, capsys
):
    (plugins / OPS).write_bytes(b"another build")
    (plugins / "tensorflow_groupnorm.json").write_text('{"tensorflow": "1.15.0"}')
    monkeypatch.delattr(ops, "WorkerProcess")
    assert tfgn_cli.main(["check", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False and report["environment"] is None
    by_status = {finding["status"]: finding for finding in report["findings"]}
    assert "TensorFlow 1.15, and TensorFlow" in by_status["FAILED"]["detail"]
    assert by_status["FAILED"]["remedy"] == "`tfgn install-plugin --remove`"
    assert by_status["skipped"]["part"] == "ops"


@pytest.mark.parametrize("method", ops._OPS)
def test_ops_compute_what_they_should(method):
    errors = getattr(calls.Calls(), method)("CPU:0", False)  # Compiled ones: the test of the page.
    assert set(errors) == set(DTYPES)
    assert all(error <= limit(dtype) for dtype, (_, error) in errors.items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_error_of_two_roundings_is_found(dtype, monkeypatch):
    fused = tfgn.group_norm

    def wrong(x, *arguments, **options):
        y = fused(x, *arguments, **options)
        return y * (1 + 2 * limit(dtype)) if x.dtype == dtype else y

    monkeypatch.setattr(tfgn, "group_norm", wrong)

    class Worker:
        def call(self, method, *arguments):
            return getattr(calls.Calls(), method)(*arguments)

    finding = ops._called("GroupNorm", Worker(), "group_norm", "CPU:0", False)
    assert finding.status == findings.FAILED and f"of {dtype} has a relative" in finding.detail


@pytest.mark.parametrize(
    ("facts", "status", "text"),
    [
        ({"reason": "Not loaded. Do this."}, "FAILED", "Not loaded -> Do this."),
        ({"xla_reason": "Another build. Do not load it."}, "FAILED", "build -> Do not load it."),
        ({"xla_reason": "It was built without XLA kernels."}, "skipped", "without XLA kernels."),
    ],
)
def test_libraries_that_are_not_loaded(facts, status, text):
    finding = list(ops._loaded(ENVIRONMENT | facts))[-1]
    assert finding.status == status
    assert text in " -> ".join(filter(None, [finding.detail, finding.remedy]))


def test_gpus_are_called_if_there_are_kernels_for_them():
    devices = ["CPU:0", "GPU:0"]
    with_gpu = ENVIRONMENT | {"gpus": 1}
    names = [name for name, _ in ops._calls(with_gpu, devices)]
    assert len(names) == 6 and not any("GPU" in name for name in names)
    assert "no CUDA kernels" in next(ops._without_kernels(with_gpu)).detail
    built = with_gpu | {"cuda": "13.0", "xla": False}
    assert [device for _, (_, device, _) in ops._calls(built, devices)] == (
        ["CPU:0"] * 3 + ["GPU:0"] * 3
    )
    assert list(ops._without_kernels(built)) == []


def test_a_crash_is_a_finding_and_its_output_is_in_the_report(tmp_path):
    (tmp_path / "tensorflow.py").write_text("import os\nprint('a line', flush=True)\nos.abort()\n")
    command = [sys.executable, "-m", "tfgn_cli", "check", "--json"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    report = json.loads(result.stdout)
    assert result.returncode == 1 and report["passed"] is False
    finding = report["findings"][-1]
    assert finding["detail"] == "the process ended with -6" and finding["remedy"] == ops._REPORT
    assert "a line" in report["log"]


def test_tensorflow_that_cannot_be_imported_is_a_finding(monkeypatch):
    def refuse(*_, **__):
        raise _processes.NotStartedError("No module named 'tensorflow'")

    monkeypatch.setattr(ops, "WorkerProcess", refuse)
    (finding,) = ops.OpChecks().run()
    assert finding.status == findings.FAILED and "No module named" in finding.detail


def test_a_page_says_what_was_found(run_python):
    result = run_python("import tfgn_cli; raise SystemExit(tfgn_cli.main(['check']))", COLUMNS="80")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) < 50 and max(map(len, lines)) <= 80
    assert [line for line in lines if line[0] != " "] == [
        *("package", "libraries", "plugin", "ops"),
        lines[-1],
    ]
    assert (
        lines[-1].startswith("0 failed, ") and "GroupNormGrad on CPU:0, compiled" in result.stdout
    )


def test_a_failure_has_a_remedy_and_nothing_else_has_one():
    with pytest.raises(ValueError, match="has a remedy if and only if it failed"):
        findings.failed("ops", "name", "detail", "")
    with pytest.raises(ValueError, match="has a remedy if and only if it failed"):
        findings.Finding("ops", "name", findings.PASSED, "detail", "remedy")
    text = "\n".join(findings.lines(findings.failed("ops", "a", "b " * 50, "c"), 80))
    assert text.startswith("  FAILED   a: b b") and text.endswith("\n           -> c")


def test_what_is_not_in_use_is_counted():
    found = [
        findings.failed("ops", "a", "b", "c"),
        findings.skipped("ops", "a", "b"),
        findings.passed("ops", "a", "b"),
    ]
    assert findings.summary(found) == "1 failed, 1 passed, 1 skipped."
    assert findings.summary(found[2:]) == "0 failed, 1 passed."


def test_symbol_versions_are_compared_as_numbers():
    versions = frozenset({"GLIBC_2.4", "GLIBC_2.34", "GLIBC_PRIVATE", "GLIBCXX_3.4.9"})
    assert shared_objects.newest(versions, "GLIBC_") == (2, 34)
    assert shared_objects.newest(versions, "CXXABI_") == ()
