"""What can go wrong with a study."""

from __future__ import annotations


class StudyError(ValueError):
    """A study cannot be done as asked; the message is one sentence for the user."""


class RunError(RuntimeError):
    """A training ended without a result; the message names the run and its output."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message says what is kept."""
