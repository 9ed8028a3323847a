"""The `tfgn` command."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from pathlib import Path

# TensorFlow takes seconds to import: the subcommands import it, `--help` and bad input do not.
# Hence nothing here or below may need the package's __init__, which `tfgn_cli` leaves out.
from .study.config import (
    FINAL_EPOCHS,
    MODELS,
    NORMS,
    REFERENCE_BATCH_SIZE,
    RunError,
    Study,
    StudyError,
)

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

#: From ResNet-50 and from a diffusion U-Net.
BENCH_SHAPES = ("2x56x56x64", "2x28x28x512", "2x64x64x320")


class _Parser(argparse.ArgumentParser):
    """Answers bad input with one sentence, without the usage before it."""

    def error(self, message):
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments, `sys.argv[1:]` by default.

    Returns:
        The exit code: 0; 1 if a training failed, or what the command needs cannot be imported,
        after one sentence on the standard error; 130 after Ctrl-C.

    Raises:
        SystemExit: with code 2 on bad input, after one sentence on the standard error.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return args.command(args)
    except ImportError as error:
        return _fail(str(error))
    except KeyboardInterrupt as interrupt:
        print(f"\ntfgn: {str(interrupt) or 'interrupted; nothing new is kept'}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tfgn", description="Fused GroupNorm and weight standardization for TensorFlow."
    )
    version = importlib.metadata.version("tensorflow-groupnorm")
    parser.add_argument("--version", action="version", version=f"tensorflow-groupnorm {version}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_study(commands)
    _add_info(commands)
    _add_bench(commands)
    return parser


def _add_study(commands):
    parser = commands.add_parser(
        "study",
        help="does GroupNorm + WS help at my batch size?",
        description="Trains the same small ResNet with each normalization at each batch size, and "
        "compares\nvalidation errors, step times and memory. Finished runs are kept: after an "
        "interruption the\nsame command goes on, and after a change of options only what they "
        "change is trained again.",
        epilog="normalizations:\n" + "\n".join(f"  {norm:6} {NORMS[norm]}" for norm in NORMS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _study_what(parser)
    _study_how(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Study.out,
        metavar="DIR",
        help="folder for report.md, results.json, the plots and kept runs (default: %(default)s)",
    )
    parser.set_defaults(command=lambda args: _run_study(args, parser))


def _study_what(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with one folder of PNG or JPEG images per class "
        "(default: the handwritten digits inside scikit-learn)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side to which images are cropped and resized (default: 64; digits: 8)",
    )
    parser.add_argument(
        "--validation-split",
        type=float,
        metavar="PART",
        help="part of the images that validates; the split is the same for every run "
        "(default: 0.2; digits: 0.5)",
    )
    parser.add_argument(
        "--norms",
        nargs="+",
        default=Study.norms,
        metavar="NORM",
        help=f"among {', '.join(NORMS)}; explained below (default: {','.join(Study.norms)})",
    )
    parser.add_argument(
        "--batch-sizes",
        nargs="+",
        default=map(str, Study.batch_sizes),
        metavar="N",
        help=f"images per training step (default: {','.join(map(str, Study.batch_sizes))})",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        default=map(str, Study.seeds),
        metavar="SEED",
        help="seeds of the weights and of the order of the images; with several, the report has "
        f"means and spreads (default: {','.join(map(str, Study.seeds))})",
    )


def _study_how(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--model",
        default=Study.model,
        help=f"{', '.join(MODELS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=Study.epochs,
        metavar="N",
        help="passes over the training images; the reported error is the median over the final "
        f"{FINAL_EPOCHS} (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=Study.learning_rate,
        metavar="RATE",
        help=f"for a batch of {REFERENCE_BATCH_SIZE}, scaled linearly with the batch size, with "
        "cosine decay (default: %(default)s)",
    )
    groups = parser.add_mutually_exclusive_group()
    groups.add_argument(
        "--groups",
        type=int,
        metavar="N",
        help=f"groups of gn and gn+ws (default: {Study.groups})",
    )
    groups.add_argument(
        "--group-size", type=int, metavar="N", help="channels per group, instead of --groups"
    )


def _run_study(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    groups = Study.groups if (args.groups, args.group_size) == (None, None) else args.groups
    try:
        study = Study(
            norms=tuple(_words(args.norms)),
            batch_sizes=_numbers(args.batch_sizes, "batch_sizes"),
            seeds=_numbers(args.seeds, "seeds"),
            epochs=args.epochs,
            learning_rate=args.learning_rate,
            groups=groups,
            group_size=args.group_size,
            model=args.model,
            data=args.data,
            image_size=args.image_size,
            validation_split=args.validation_split,
            out=args.out,
        )
        from .study import runner

        runner.run(study)
    except StudyError as error:
        parser.error(str(error))
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is missing: pip install 'tensorflow-groupnorm[study]'")
    except RunError as error:
        return _fail(str(error))
    return 0


def _fail(message: str) -> int:
    print(f"tfgn: {message}", file=sys.stderr)
    return EXIT_FAILURE


def _words(texts: list[str]) -> list[str]:
    """Returns the values of a list option, given with spaces or commas between them."""
    return " ".join(texts).replace(",", " ").split()


def _numbers(texts: list[str], field: str) -> tuple[int, ...]:
    numbers = []
    for word in _words(texts):
        try:
            numbers.append(int(word))
        except ValueError:
            raise StudyError(f"{field} must be whole numbers; received {word!r}") from None
    return tuple(numbers)


def _add_info(commands):
    parser = commands.add_parser(
        "info",
        help="what is installed, and whether the fused ops are on",
        description="Prints versions, the CPU target in use, CUDA support, and whether the fused "
        "ops and their XLA kernels are on; if they are off, why.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(command=_print_info)


def _print_info(args: argparse.Namespace) -> int:
    from . import _info

    environment = _info.collect()
    print(json.dumps(environment, indent=1) if args.json else _info.text(environment))
    return 0


def _add_bench(commands):
    parser = commands.add_parser(
        "bench",
        help="time the fused layers against stock Keras",
        description="Times GroupNormalization and weight standardization, fused against stock "
        "Keras, in graph mode on this machine: medians over fresh random inputs, the two taking "
        "turns.",
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=BENCH_SHAPES,
        metavar="NxHxWxC",
        help="inputs of GroupNormalization, channels last, any rank "
        f"(default: {','.join(BENCH_SHAPES)})",
    )
    parser.add_argument(
        "--groups", type=int, default=32, metavar="N", help="groups (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=30,
        metavar="N",
        help="timings each (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    parser.set_defaults(command=lambda args: _run_bench(args, parser))


def _run_bench(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    shapes = []
    for text in _words(args.shapes):
        sizes = text.split("x")
        if len(sizes) < 2 or not all(size.isdigit() and int(size) > 0 for size in sizes):
            parser.error(f"argument --shapes: expected sizes such as 2x56x56x64, received {text!r}")
        shape = tuple(int(size) for size in sizes)
        if args.groups < 1 or shape[-1] % args.groups:
            parser.error(
                f"argument --groups: expected a divisor of the {shape[-1]} channels of {text}, "
                f"received {args.groups}"
            )
        shapes.append(shape)
    if not shapes:
        parser.error("argument --shapes: expected at least one shape")
    if args.repeats < 1:
        parser.error(f"argument --repeats: expected at least 1, received {args.repeats}")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"argument --json: there is no folder {args.json.parent}")
    from . import _bench

    result = _bench.run(shapes, args.groups, args.repeats)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
