"""The result of one check, and how it is printed."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable
from typing import Any

PASSED, FAILED, SKIPPED = "ok", "FAILED", "skipped"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        part: the group of checks that it belongs to, such as `"libraries"`.
        name: what was checked.
        status: `PASSED`, `FAILED` or `SKIPPED`.
        detail: what was seen, in words.
        remedy: what to do about it; set if and only if the check failed.
    """

    part: str
    name: str
    status: str
    detail: str
    remedy: str | None = None

    def __post_init__(self) -> None:
        if (self.status == FAILED) != bool(self.remedy):
            raise ValueError(f"A finding has a remedy if and only if it failed. Received: {self}")

    def as_json(self) -> dict[str, Any]:
        """Returns the fields as a dictionary."""
        return dataclasses.asdict(self)


def passed(part: str, name: str, detail: str) -> Finding:
    """Returns the result of a check that passed."""
    return Finding(part, name, PASSED, detail)


def skipped(part: str, name: str, detail: str) -> Finding:
    """Returns the result of a check that does not apply; `detail` says why."""
    return Finding(part, name, SKIPPED, detail)


def failed(part: str, name: str, detail: str, remedy: str) -> Finding:
    """Returns the result of a check that failed."""
    return Finding(part, name, FAILED, detail, remedy)


def lines(finding: Finding, width: int) -> Iterable[str]:
    """Returns the lines that show a finding.

    Args:
        finding: the finding.
        width: the columns of the terminal.
    """
    head = f"  {finding.status:<7}  "
    texts = [f"{finding.name}: {finding.detail}"]
    if finding.remedy:
        texts.append(f"-> {finding.remedy}")
    for text in texts:
        yield from textwrap.wrap(
            text,
            max(width, 40),
            initial_indent=head,
            subsequent_indent=" " * (len(head) + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        head = " " * len(head)


def summary(findings: Iterable[Finding]) -> str:
    """Returns one sentence with the numbers of checks that passed, failed and were skipped."""
    statuses = [finding.status for finding in findings]
    counts = [(statuses.count(FAILED), "failed"), (statuses.count(PASSED), "passed")]
    if SKIPPED in statuses:
        counts.append((statuses.count(SKIPPED), "skipped"))
    return ", ".join(f"{count} {word}" for count, word in counts) + "."
