"""Code shared by the subcommands: exit codes, the parser, and list options."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Reports invalid arguments in one sentence, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def fail(message: str) -> int:
    """Prints the message to standard error and returns the exit code."""
    print(f"tfgn: {message}", file=sys.stderr)
    return EXIT_FAILURE


def words(texts: list[str]) -> list[str]:
    """Returns the values of a list option, separated by spaces or commas."""
    return " ".join(texts).replace(",", " ").split()
