"""The `tfgn` command, with one module per subcommand, whose `add(commands)` adds it to the parser.

`tensorflow_groupnorm` imports TensorFlow, which takes seconds, and raises an error if the fused ops
are required and off. To answer `--help` and invalid arguments at once, the subcommands import it
only when they run. At module level they import only `tfgn_base` and the options of `tfgn_study`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable

from tfgn_base import plugin

from . import bench, check, convert, export, fold, info, install_plugin, study
from ._common import EXIT_INTERRUPTED, Parser, fail


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments, `sys.argv[1:]` by default.

    Returns:
        The exit code: 0 on success; 1 after one sentence on standard error, if a training failed, a
        required package cannot be imported, or a file cannot be read or written; 130 after Ctrl-C.

    Raises:
        SystemExit: with code 2 for invalid arguments, after one sentence on standard error.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.command
    installed = plugin.installed()
    problem = installed and installed.problem()
    if problem and command not in (check.run, install_plugin.run):
        return fail(problem)
    try:
        return command(args)
    except ImportError as error:
        return fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror}" if error.strerror else str(error))
    except KeyboardInterrupt as interrupt:
        print(f"\ntfgn: {str(interrupt) or 'interrupted; nothing new is kept'}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="tfgn", description="Fused GroupNorm and weight standardization for TensorFlow."
    )
    version = importlib.metadata.version("tensorflow-groupnorm")
    parser.add_argument("--version", action="version", version=f"tensorflow-groupnorm {version}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (study, info, check, bench, convert, fold, export, install_plugin):
        command.add(commands)
    return parser
