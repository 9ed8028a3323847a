"""What the subcommands share: exit codes, the parser, and the reading of list options."""

from __future__ import annotations

import argparse
import sys

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Answers bad input with one sentence, without the usage before it."""

    def error(self, message):
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def fail(message: str) -> int:
    """Prints the message to the standard error; returns the exit code."""
    print(f"tfgn: {message}", file=sys.stderr)
    return EXIT_FAILURE


def words(texts: list[str]) -> list[str]:
    """Returns the values of a list option, given with spaces or commas between them."""
    return " ".join(texts).replace(",", " ").split()
