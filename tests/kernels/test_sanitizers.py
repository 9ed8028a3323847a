"""The C++ tests, rebuilt under sanitizers, without TensorFlow or Python.

What takes longer is in `heavy/`: address.sh, threads.sh, valgrind.sh.
"""

import shutil
import subprocess

import pytest
from paths import ROOT
from tensorflow_groupnorm import _native

pytestmark = pytest.mark.compiles


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def test_kernels_touch_no_byte_too_many():
    # Kept, so that a second run compiles only what changed.
    build = ROOT / "build" / "address-sanitizer"
    run(
        shutil.which("cmake"),
        *("-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}"),
        *("-DTFGN_TENSORFLOW=OFF", "-DTFGN_BUILD_TESTS=ON", "-DTFGN_SANITIZE=address"),
        # These checks take 25 more seconds of a core to compile; heavy/address.sh has them.
        "-DCMAKE_CXX_FLAGS=-fno-sanitize-address-use-after-scope",
    )
    run(shutil.which("cmake"), "--build", build)
    output = run("ctest", "--test-dir", build, "--output-on-failure")
    assert "100% tests passed" in output
    for test in (
        "EveryTarget.GroupNormAroundTheVectorWidths/SCALAR",
        f"EveryTarget.GroupNormAroundTheVectorWidths/{_native.cpu_target()}",
        "Stages.EveryItemOnceInOrder",
        "Threads.RunEveryTaskOnceBeforeTheCallReturns",
        "CudaPlan.CoversEveryElementOnce",
        "EmulatedGroupNorm.ActivationsAndAffine",
        "EmulatedStandardizeWeights.EveryForm",
    ):
        assert test in output


# Two threads that count without asking each other.
RACE = """
#include <thread>
int count = 0;
int main() {
  std::thread other([] { ++count; });
  ++count;
  other.join();
}
"""


def build_for_races(source, program, *arguments):
    options = ("-std=c++17", "-O1", "-g1", "-fsanitize=thread")
    run("g++", *options, source, *arguments, "-o", program)
    return program


def test_the_sanitizer_finds_a_race(tmp_path):
    (tmp_path / "race.cc").write_text(RACE)
    program = build_for_races(tmp_path / "race.cc", tmp_path / "race")
    race = subprocess.run(program, capture_output=True, text=True)
    assert "ThreadSanitizer: data race" in race.stderr


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("stages", "Stages.EveryItemOnceInOrder"),
        ("threads", "Threads.RunEveryTaskOnceBeforeTheCallReturns"),
    ],
)
def test_threads_have_no_race(name, test, tmp_path):
    tests = ROOT / "tests" / "cc"
    uses = (f"-I{ROOT / 'cc'}", f"-I{tests / 'absl_emulation'}", "-lgtest", "-lgtest_main")
    program = build_for_races(tests / f"{name}_test.cc", tmp_path / name, *uses)
    assert f"[       OK ] {test}" in run(program)
