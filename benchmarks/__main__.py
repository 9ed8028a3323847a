"""The command `python -m benchmarks`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .cases import NETWORKS
from .sections import SECTIONS

FOLDER = Path(__file__).resolve().parent
ACCURACY = "accuracy"
NAMES = (*SECTIONS, ACCURACY)

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0 on success; 1 if one of our results exceeds its error bound or is missing, or a worker
        has crashed; 2 for invalid arguments; 130 after Ctrl-C.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    output = _output(args)
    if args.add and not (output / "results.json").exists():
        parser.error(f"there is no results.json in {output} to add to")
    try:
        # Imported here so that `--help` does not wait for NumPy, Matplotlib and the frameworks.
        from . import machine, report, run
    except ModuleNotFoundError as error:
        parser.exit(EXIT_USAGE, f"benchmarks: {error.name} is missing: pip install '.[bench]'\n")
    earlier = report.read(output) if args.add else None
    if earlier and earlier.environment["machine"] != machine.describe():
        parser.error(f"argument --add: the results in {output} are those of another machine")
    if args.render:
        if not (output / "results.json").exists():
            parser.error(f"there is no results.json in {output} to render")
        results = report.read(output)
    else:
        command = " ".join(["python -m benchmarks", *(sys.argv[1:] if argv is None else argv)])
        try:
            results = run.run(
                command,
                args.only,
                args.shapes,
                args.rounds,
                args.quick,
                args.networks,
                not args.no_peaks,
            )
        except KeyboardInterrupt:
            print("\nbenchmarks: interrupted; nothing was written", file=sys.stderr)
            return EXIT_INTERRUPTED
        except run.WorkerError as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            return EXIT_FAILURE
        if earlier:
            results = results.added_to(earlier)
    report.write(results, output)
    print(f"Report: {output / 'RESULTS.md'}")
    sentences = run.violations(results, ACCURACY in args.only and not args.render)
    for sentence in sentences:
        print(f"benchmarks: {sentence}", file=sys.stderr)
    return EXIT_FAILURE if sentences else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times the fused ops and exported networks on the CPU, interleaved with a "
        "memory copy, TensorFlow, Keras, PyTorch and other runtimes, and checks the accuracy of "
        "the ops against float64. Writes RESULTS.md, plots and results.json.",
        epilog="Frameworks that are not installed are skipped. The exit code is 1 if one of our "
        "results exceeds its error bound.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=NAMES,
        default=NAMES,
        metavar="SECTION",
        help=f"what to measure: {', '.join(NAMES)} (default: all)",
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=_shape,
        metavar="NxHxWxC",
        help="shapes that replace the 8 of the ladder; channels last, any rank, 32 groups",
    )
    parser.add_argument(
        "--rounds", type=_positive, metavar="N", help="timings of each contender (default: 15)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="run a few rounds of a few shapes, as a check"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="output folder (default: benchmarks/ if all is measured, else a temporary folder)",
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="add to the results in the output folder, which are those of this machine, or replace "
        "the same sections there",
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        default=tuple(NETWORKS),
        metavar="NETWORK",
        help=f"those of the section memory: {', '.join(NETWORKS)} (default: all)",
    )
    parser.add_argument(
        "--no-peaks",
        action="store_true",
        help="time the steps of the section memory, but measure no peaks, which takes most of the "
        "hour; with --add, those measured earlier are kept",
    )
    parser.add_argument(
        "--render",
        action="store_true",
        help="measure nothing; rewrite the report from results.json in the output folder",
    )
    return parser


def _output(args: argparse.Namespace) -> Path:
    everything = args.render or (args.only == NAMES and not args.shapes and not args.quick)
    if args.output or everything:
        return args.output or FOLDER
    return Path(tempfile.mkdtemp(prefix="tfgn-benchmarks-"))


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split("x")
    if len(sizes) < 3 or not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"expected sizes such as 2x56x56x64, received {text!r}")
    shape = tuple(map(int, sizes))
    if shape[-1] % 32:
        raise argparse.ArgumentTypeError(f"32 groups do not divide the channels of {text}")
    return shape


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
