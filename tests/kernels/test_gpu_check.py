"""`python -m benchmarks.gpu --only check`, on the emulated device of tests/cc instead of a GPU."""

import math
import subprocess

import pytest
from paths import ROOT

torch = pytest.importorskip("torch")
check = pytest.importorskip("benchmarks.gpu.check")
gpu = pytest.importorskip("benchmarks.gpu.library")

pytestmark = pytest.mark.compiles

TESTS = ROOT / "tests" / "cc"
# Emulated threads are slow: about a millisecond for a thousand elements.
MOST_ELEMENTS = 20_000
SHARE = 12


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    library = tmp_path_factory.mktemp("emulated") / "kernels.so"
    sources = [source for source in gpu.SOURCES if source.suffix == ".cc"]
    sources += [TESTS / "emulated_kernels.cc", TESTS / "emulated_device.cc"]
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wno-unknown-pragmas"]
    command += [f"-I{TESTS / 'cuda_emulation'}", f"-I{gpu.KERNELS.parent}", "-o", library, *sources]
    subprocess.run(command, check=True)
    return gpu.Library(library, device="cpu")


def small(cases):
    return [case for case in cases if math.prod(case[0].shape) <= MOST_ELEMENTS]


def test_finds_nothing_wrong(emulated):
    cases = small(check.listed())[::SHARE] + small(check.fuzz(0, 100))[::2]
    found = {
        f"{norm} {dtype} {mean}": sentences
        for i, (norm, dtype, mean) in enumerate(cases)
        if (sentences := check.failures(emulated, norm, dtype, mean, i))
    }
    assert len(cases) > 50
    assert not found
    assert not check.weights(emulated, 0)


@pytest.mark.parametrize("wrong", [{"epsilon": 2e-3}, {"activation": "relu"}, {"groups": 4}])
def test_finds_what_is_wrong(emulated, monkeypatch, wrong):
    norm = check.GroupNorm((2, 5, 7, 24), 3, 8)
    assert not check.failures(emulated, norm, torch.float32, 0.5, 0)
    reference = check._reference
    monkeypatch.setattr(
        check, "_reference", lambda norm, *tensors: reference(norm._replace(**wrong), *tensors)
    )
    assert check.failures(emulated, norm, torch.float32, 0.5, 0)
