"""The C++ tests of the kernels, rebuilt under AddressSanitizer, without TensorFlow or Python."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


@pytest.mark.slow
def test_kernels_touch_no_byte_too_many():
    # Kept, so that a second run compiles only what changed.
    build = ROOT / "build" / "address-sanitizer"
    run(
        shutil.which("cmake"),
        *("-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}"),
        *("-DTFGN_TENSORFLOW=OFF", "-DTFGN_PYTHON=OFF", "-DTFGN_BUILD_TESTS=ON"),
        # -O1: vector code without it takes minutes to run, with more it takes minutes to compile.
        *("-DTFGN_SANITIZE=address", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG -g1"),
    )
    run(shutil.which("cmake"), "--build", build)
    output = run("ctest", "--test-dir", build, "--output-on-failure")
    assert "100% tests passed" in output
    for test in (
        "EveryTarget.GroupNormAroundTheVectorWidths",
        "Stages.EveryItemOnceInOrder",
        "CudaPlan.CoversEveryElementOnce",
        "EmulatedGroupNorm.ActivationsAndAffine",
        "EmulatedStandardizeWeights.EveryForm",
    ):
        assert test in output
