"""The command `python -m benchmarks.gpu`."""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXIT_FAILURE = 1
EXIT_UNUSABLE = 2
TOOLS = ("memcheck", "racecheck", "initcheck")
#: With a sanitizer, each case takes seconds.
SANITIZED_CASES = 40


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0; 1 if a result is wrong; 2 if the command cannot run here.
    """
    args = _parser().parse_args(argv)
    try:
        import torch
    except ModuleNotFoundError:
        return _refuse("PyTorch is missing: pip install torch")
    if not torch.cuda.is_available():
        return _refuse("this needs an NVIDIA GPU that PyTorch can use, and there is none")
    from .library import BuildError, Library, build

    major, minor = torch.cuda.get_device_capability()
    try:
        path = build(args.build_folder, f"sm_{major}{minor}")
    except BuildError as error:
        return _refuse(str(error))
    library = Library(path)
    print(_setting(torch), flush=True)

    failed = 0
    if "check" in args.only:
        failed = _check(library, args.seed, args.fuzz, args.limit)
    if "sanitize" in args.only:
        failed += _sanitize(args)
    if "measure" in args.only:
        from . import measure

        rows = []
        for row in measure.rows(library, args.quick):
            rows.append(row)
            print(measure.table([row]).splitlines()[1], flush=True)
        print("\n".join(["", measure.table(rows), "", *measure.verdicts(rows)]))
    return EXIT_FAILURE if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Builds the CUDA kernels alone, checks them against float64 PyTorch, runs them "
        "under compute-sanitizer and compares their speed with a copy's and torch.nn.GroupNorm's. "
        "Needs an NVIDIA GPU, a CUDA toolkit and PyTorch; no TensorFlow, no network.",
    )
    steps = ("check", "sanitize", "measure")
    parser.add_argument(
        "--only", nargs="+", choices=steps, default=steps, help="steps to run (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="measure two shapes")
    parser.add_argument(
        "--fuzz",
        type=int,
        default=500,
        help="number of random cases to check (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all random numbers (default: %(default)s)"
    )
    parser.add_argument(
        "--build-folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tfgn-gpu",
        help="folder in which the compiled kernels are kept",
    )
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)  # of cases, for _sanitize
    return parser


def _setting(torch) -> str:
    """Returns the conditions of the figures: date, GPU, driver, versions and command."""
    program = shutil.which("nvidia-smi")
    driver = "unknown"
    if program:
        query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    return (
        f"{datetime.date.today()}, {torch.cuda.get_device_name()}, driver {driver}, "
        f"PyTorch {torch.__version__} with CUDA {torch.version.cuda}: {command}"
    )


def _refuse(message: str) -> int:
    print(f"benchmarks.gpu: {message}", file=sys.stderr)
    return EXIT_UNUSABLE


def _check(library, seed: int, fuzzed: int, limit: int | None) -> int:
    """Returns the number of cases that fail, and prints a sentence for each."""
    from . import check

    cases = [*check.listed(), *check.fuzz(seed, fuzzed)]
    if limit:
        cases = cases[:: max(1, len(cases) // limit)]
    failed = 0
    for i, (norm, dtype, mean) in enumerate(cases):
        sentences = check.failures(library, norm, dtype, mean, seed + i)
        failed += bool(sentences)
        for sentence in sentences:
            print(f"{norm} {dtype} mean {mean}: {sentence}")
    for sentence in check.weights(library, seed):
        failed += 1
        print(sentence)
    print(f"checked {len(cases)} cases and weight standardization: {failed} failed", flush=True)
    return failed


def _sanitize(args) -> int:
    """Returns the number of compute-sanitizer's tools that report errors."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        print("compute-sanitizer is not in PATH: its checks are left out")
        return 0
    complaints = 0
    for tool in TOOLS:
        command = [program, "--tool", tool, "--error-exitcode", "3", sys.executable, "-m"]
        command += ["benchmarks.gpu", "--only", "check", "--fuzz", str(SANITIZED_CASES)]
        command += ["--limit", str(SANITIZED_CASES), "--seed", str(args.seed)]
        command += ["--build-folder", str(args.build_folder)]
        # PyTorch's memory pool would hide accesses beyond a tensor.
        environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        print(f"{tool}: {'clean' if result.returncode == 0 else 'complains'}", flush=True)
        if result.returncode:
            complaints += 1
            print("\n".join((result.stdout + result.stderr).splitlines()[-40:]))
    return complaints


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
