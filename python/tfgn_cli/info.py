"""`tfgn info`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ._startup import start_tensorflow


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tfgn info` to the subparsers `commands`."""
    parser = commands.add_parser(
        "info",
        help="show versions and whether the fused ops are on",
        description="Prints versions, the CPU target in use, CUDA support, and whether the fused "
        "ops and their XLA kernels are on. If they are off, it prints the reason.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(command=_print_info)


def _print_info(args: argparse.Namespace) -> int:
    start_tensorflow()
    from tfgn_study import environment

    facts = environment.collect()
    print(json.dumps(facts, indent=1) if args.json else environment.text(facts))
    return 0
