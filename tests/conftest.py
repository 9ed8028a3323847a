"""What every test shares: a quiet TensorFlow, fixed seeds, the device, and `--fast`."""

import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import hypothesis.configuration
import keras
import pytest
import tensorflow as tf
from paths import ROOT

#: Random calls of a test with `hypothesis.given`, without and with `--fast`.
RANDOM_CALLS, RANDOM_CALLS_FAST = 500, 25
#: Markers of tests that `--fast` leaves out.
NOT_FAST = ("slow", "compiles")


def pytest_addoption(parser):
    parser.addoption("--device", choices=("CPU", "GPU"), default="CPU", help="where the ops run")
    parser.addoption(
        "--fast",
        action="store_true",
        help=f"leave out tests marked {' or '.join(NOT_FAST)}; of a parametrized test, run as many "
        "calls as it takes to see every value of every parameter",
    )


def pytest_configure(config):
    # The same calls on every machine, as slow as it may be.
    hypothesis.settings.register_profile(
        "tests",
        database=None,
        deadline=None,
        derandomize=True,
        max_examples=RANDOM_CALLS_FAST if config.getoption("--fast") else RANDOM_CALLS,
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


def pytest_itemcollected(item):
    if "run_python" in item.fixturenames:
        item.add_marker("slow")


@pytest.hookimpl(trylast=True)  # after those that other markers leave out
def pytest_collection_modifyitems(config, items):
    if config.getoption("--fast"):
        fast = [item for item in items if not any(map(item.get_closest_marker, NOT_FAST))]
        chosen = {item.nodeid for item in _every_value_once(fast)}
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in chosen])
        items[:] = [item for item in items if item.nodeid in chosen]


def _every_value_once(items):
    """The calls of each test that together have every value of every parameter."""
    seen = set()
    # An order that mixes the values, and is the same for any selection of tests.
    for item in sorted(items, key=lambda item: zlib.crc32(item.nodeid.encode())):
        test = item.nodeid.partition("[")[0]
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        values = {(test, name, id(value)) for name, value in parameters.items()}
        if not values or not values <= seen:
            seen |= values
            yield item


@pytest.fixture
def device(request):
    """The device under test, "CPU" or "GPU"; eager ops are placed there by default."""
    return request.config.getoption("--device")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(20180322)


@pytest.fixture
def run_python():
    """Runs code in a fresh interpreter: `run_python(code, **environment) -> CompletedProcess`.

    Importing TensorFlow takes seconds: a test with this fixture is marked as slow.
    """

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


@pytest.fixture
def answer(run_python):
    """Runs code as `run_python` does; it must succeed. Returns the JSON that it prints last."""

    def run(code, **environment):
        result = run_python(code, **environment)
        assert result.returncode == 0, result.stderr[-4000:]
        return json.loads(result.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The release wheel: the one that TFGN_WHEEL names, else built now, which takes minutes."""
    if given := os.environ.get("TFGN_WHEEL"):
        return Path(given).resolve(strict=True)
    script = [ROOT / "build_pip_pkg.sh", "--no-isolation", "--python", sys.executable]
    built = subprocess.run(
        [*script, "--out", tmp_path_factory.mktemp("wheel")],
        env=os.environ | {"SKBUILD_BUILD_DIR": str(ROOT / "build" / "{cache_tag}")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(built.stdout.strip())
