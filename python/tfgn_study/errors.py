"""The errors of a study."""

from __future__ import annotations


class StudyError(ValueError):
    """A study cannot run with these options.

    The message is one sentence for the user, with the options as they are typed: `--batch-sizes`.
    """


class RunError(RuntimeError):
    """A training ended without a result; the message names the run and its output."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the message says which runs are kept."""
