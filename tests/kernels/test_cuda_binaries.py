"""What the compiled CUDA kernels take of a multiprocessor, as `cuobjdump` reads it: no GPU runs."""

import collections
import dataclasses
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import tensorflow_groupnorm as tfgn
from paths import ROOT

CUOBJDUMP = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", "cuobjdump")
PLAN = (ROOT / "cc" / "kernels" / "cuda" / "plan.h").read_text()

#: Registers of a multiprocessor, which are given to warps in units of 256: CUDA C++ Programming
#: Guide, "Compute Capabilities", and the occupancy calculator. The same from Turing on.
REGISTERS, UNIT, WARP = 65536, 256, 32


def numbers_of_plan(pattern: str) -> tuple[int, ...]:
    return tuple(map(int, re.search(pattern, PLAN).groups()))


@dataclasses.dataclass(frozen=True)
class Kernel:
    name: str
    architecture: str
    registers: int
    stack: int
    shared: int


def demangled(text: str) -> str:
    return subprocess.run(
        ["c++filt"], check=True, input=text, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def kernels():
    if not tfgn.build_info()["cuda"]:
        pytest.skip("built without CUDA kernels")
    command = [CUOBJDUMP, "--dump-resource-usage", tfgn.plugin_path()]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found, architecture = [], None
    for line in demangled(text).replace(":\n  REG", ": REG").splitlines():
        if match := re.search(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.search(r"Function .*: REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            name = re.search(r"(\w+(?:<[\w:]+>)?)\(", line)[1].replace("tfgn::", "")
            found.append(Kernel(name, architecture, *map(int, match.groups())))
    return found


def test_every_kernel_is_built_for_every_architecture(kernels):
    built = collections.defaultdict(set)
    for kernel in kernels:
        built[kernel.architecture].add(kernel.name)
    assert len({frozenset(names) for names in built.values()}) == 1
    names = next(iter(built.values()))
    for pass_ in ("Forward", "Backward", "ScatteredForward", "ScatteredBackward"):
        for dtype in ("float16", "bfloat16", "float", "double"):
            assert f"{pass_}Kernel<{dtype}>" in names


def test_a_multiprocessor_runs_as_many_blocks_as_the_plan_counts_on(kernels):
    (threads,) = numbers_of_plan(r"kCudaMaxThreads = (\d+);")
    (backward,) = numbers_of_plan(r"kCudaBackwardBlocks = (\d+);")
    of_float, of_others = numbers_of_plan(r"return element_size == 4 \? (\d+) : (\d+);")
    checked = set()
    for kernel in kernels:
        if match := re.fullmatch(r"(Forward|Backward)Kernel<(\w+)>", kernel.name):
            forward = of_float if match[2] == "float" else of_others
            of_warp = -(-kernel.registers * WARP // UNIT) * UNIT
            blocks = REGISTERS // (of_warp * threads // WARP)
            assert blocks >= (forward if match[1] == "Forward" else backward), kernel
            checked.add(kernel.name)
    assert len(checked) == 8


def test_static_shared_memory_is_what_the_plan_reserves(kernels):
    # From 8.0 on, CUDA keeps 1 KiB of every block; all else is dynamic, and the plan's.
    assert {kernel.shared for kernel in kernels} <= {0, 1024}


def test_no_register_is_spilled(kernels):
    assert [kernel for kernel in kernels if kernel.stack > 0] == []
