"""How to install the packages that optional features need."""

from __future__ import annotations

import importlib.metadata
import re
import shlex

DISTRIBUTION = "tensorflow-groupnorm"


def install_command(extra: str) -> str:
    """Returns the `pip install` of the packages of an extra.

    It works wherever this package came from: the registry may not know it.

    Args:
        extra: a key of `project.optional-dependencies`.
    """
    pattern = re.compile(rf"(.+?)\s*;\s*extra == ['\"]{re.escape(extra)}['\"]")
    requirements = importlib.metadata.requires(DISTRIBUTION) or []
    found = [match[1] for match in map(pattern.fullmatch, requirements) if match]
    return shlex.join(["pip", "install", *(found or [f"{DISTRIBUTION}[{extra}]"])])
