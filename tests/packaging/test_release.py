"""The release: source archive -> one wheel -> a clean environment of each TensorFlow and Python.

Not part of the default run: `python -m pytest -m minors`. Takes more than an hour on 2 cores,
gigabytes of downloads and 20 GB of disk. Versions of Python that the machine lacks are skipped;
those of pyenv are found without being in PATH. Environment variables:

  TFGN_WHEEL         tests this wheel, with the minors that it has, instead of building one
  TFGN_ENVIRONMENTS  where the TensorFlows that the build needs are kept for the next run
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from paths import ROOT, SUPPORT
from release import MINORS

pytestmark = pytest.mark.minors

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: Their wheels lack the headers of XLA's typed FFI.
WITHOUT_XLA = ("2.18", "2.19")
# Nothing of the environment that runs the tests may reach those that are tested.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def minors_of(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    matches = [re.match(r"tensorflow_groupnorm/tf([\d.]+)/_tfgn_ops\.so$", name) for name in names]
    return {match.group(1) for match in matches if match}


#: Of a wheel that is given, also a minor that is not yet in `MINORS`.
TESTED = sorted(minors_of(os.environ["TFGN_WHEEL"])) if "TFGN_WHEEL" in os.environ else MINORS


def run(*command, **options):
    """Runs a command, and shows what it says where it fails; returns its standard output."""
    result = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, check=False, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built from what the source archive holds."""
    if "TFGN_WHEEL" in os.environ:
        return Path(os.environ["TFGN_WHEEL"]).resolve()
    folder = tmp_path_factory.mktemp("release")
    backend = "import sys, scikit_build_core.build as backend; backend.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", backend, folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (source,) = folder.glob("*/pyproject.toml")
    environments = os.environ.get("TFGN_ENVIRONMENTS", folder / "environments")
    output = run(
        source.parent / "build_pip_pkg.sh",
        *("--no-isolation", "--python", sys.executable, "--out", folder / "dist"),
        *("--environments", environments, "--tensorflow", *MINORS),
    )
    return Path(output.strip())


def interpreter(version):
    """An interpreter of a version of Python, or None where the machine has none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *pyenv.glob(f"{version}.*/bin/python")]
    print_version = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, [sys.executable, *candidates]):
        # pyenv puts commands into PATH that fail.
        result = subprocess.run([candidate, "-c", print_version], capture_output=True, text=True)
        if result.stdout.strip() == version:
            return candidate
    return None


def test_the_wheel_holds_the_ops_once_for_each_minor(wheel):
    if "TFGN_WHEEL" not in os.environ:
        assert minors_of(wheel) == set(MINORS)
    # What TensorFlow 2.19 has no headers for.
    assert "tensorflow_groupnorm/tf2.19/_tfgn_xla.so" not in zipfile.ZipFile(wheel).namelist()


OF_THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize(
    ("version", "minor"),
    [(OF_THIS_PYTHON, minor) for minor in TESTED]
    + [(version, TESTED[-1]) for version in PYTHONS if version != OF_THIS_PYTHON],
)
def test_the_wheel_runs_beside(wheel, version, minor, tmp_path):
    if (builder := interpreter(version)) is None:
        pytest.skip(f"there is no Python {version} on this machine")
    environment = tmp_path / "environment"
    run(builder, "-m", "venv", environment)
    python = environment / "bin" / "python"
    # As a user does who has reasons for that minor. What the wheel asks for has to agree.
    run(python, "-m", "pip", "install", "--quiet", wheel, f"tensorflow=={minor}.*")
    run(python, "-m", "pip", "check")
    # -I, from elsewhere: the sources here are not what is tested.
    smoke = run(python, "-I", SUPPORT / "smoke.py", cwd=tmp_path)
    facts = json.loads(smoke.splitlines()[-1])
    assert facts["python"].startswith(f"{version}.")
    assert facts["tensorflow"].startswith(f"{minor}.")
    assert facts["fused"] is True
    assert facts["xla"] == (minor not in WITHOUT_XLA), facts["xla_reason"]
    assert set(facts["built_for"]) == minors_of(wheel)
    told = run(environment / "bin" / "tfgn", "info")
    assert re.search(rf"^built for TensorFlow +{', '.join(facts['built_for'])}$", told, re.M)
    if not facts["xla"]:
        assert re.search(rf"off: .*TensorFlow {minor}\.\d+ is not 2\.20 or newer", told)
    check_that_a_copy_loads_elsewhere(environment, minor)


def check_that_a_copy_loads_elsewhere(environment, minor):
    """Where TensorFlow loads what it finds: the wheel's own Highway has to be found from there."""
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "tensorflow-plugins").mkdir()
    library = site_packages / "tensorflow_groupnorm" / f"tf{minor}" / "_tfgn_ops.so"
    shutil.copy(library, site_packages / "tensorflow-plugins")
    maps = "import tensorflow, pathlib; print(pathlib.Path('/proc/self/maps').read_text())"
    mapped = run(environment / "bin" / "python", "-I", "-c", maps)
    assert f"{site_packages}/tensorflow-plugins/_tfgn_ops.so" in mapped
    assert f"{site_packages}/tensorflow_groupnorm/" not in mapped
