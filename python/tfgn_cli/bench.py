"""`tfgn bench`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ._common import words

#: From ResNet-50 and from a diffusion U-Net.
BENCH_SHAPES = ("2x56x56x64", "2x28x28x512", "2x64x64x320")


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tfgn bench` to the subparsers `commands`."""
    parser = commands.add_parser(
        "bench",
        help="time the fused layers against stock Keras",
        description="Times GroupNormalization and weight standardization on this machine, fused "
        "and in stock Keras, in graph mode. The times are medians over fresh random inputs, and "
        "the two versions take turns.",
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=BENCH_SHAPES,
        metavar="NxHxWxC",
        help="input shapes of GroupNormalization, channels last, any rank "
        f"(default: {','.join(BENCH_SHAPES)})",
    )
    parser.add_argument(
        "--groups",
        type=int,
        default=32,
        metavar="N",
        help="number of groups (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=30,
        metavar="N",
        help="timings per case (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    parser.set_defaults(command=lambda args: _run_bench(args, parser))


def _run_bench(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    shapes = []
    for text in words(args.shapes):
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
    from . import _timings

    result = _timings.run(shapes, args.groups, args.repeats)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0
