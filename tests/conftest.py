"""What every test shares: a quiet TensorFlow, fixed seeds, the device, a fresh interpreter."""

import os
import signal
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import hypothesis.configuration
import keras
import pytest
import tensorflow as tf
from paths import ROOT

def pytest_addoption(parser):
    parser.addoption("--device", choices=("CPU", "GPU"), default="CPU", help="where the ops run")


def pytest_configure(config):
    # The same calls on every machine, as slow as it may be.
    hypothesis.settings.register_profile(
        "tests",
        database=None,
        deadline=None,
        derandomize=True,
        max_examples=500,
    )
    hypothesis.settings.load_profile("tests")
    hypothesis.configuration.set_hypothesis_home_dir(ROOT / ".pytest_cache" / "hypothesis")
    if config.getoption("--device") == "CPU":
        tf.config.set_visible_devices([], "GPU")
    elif not tf.config.list_physical_devices("GPU"):
        raise pytest.UsageError("--device=GPU: TensorFlow sees no GPU")
    tf.config.experimental.enable_op_determinism()
    # A shell starts its background commands with SIGINT ignored, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def device(request):
    """The device under test, "CPU" or "GPU"; eager ops are placed there by default."""
    return request.config.getoption("--device")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(20180322)


@pytest.fixture
def run_python():
    """Runs code in a fresh interpreter: `run_python(code, **environment) -> CompletedProcess`."""

    def run(code, **environment):
        return subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The release wheel: the one that TFGN_WHEEL names, else built now, which takes minutes."""
    if given := os.environ.get("TFGN_WHEEL"):
        return Path(given).resolve(strict=True)
    script = [ROOT / "build_pip_pkg.sh", "--no-isolation", "--python", sys.executable]
    built = subprocess.run(
        [*script, "--out", tmp_path_factory.mktemp("wheel")],
        env=os.environ | {"SKBUILD_BUILD_DIR": str(ROOT / "build" / "{wheel_tag}")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(built.stdout.strip())
