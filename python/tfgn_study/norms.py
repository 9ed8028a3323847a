"""The normalizations that a study compares, and how the command line spells them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from .errors import StudyError

#: The normalizations, with the sentence that `tfgn study --help` gives for each.
NORMS = {
    "bn": "batch normalization (keras.layers.BatchNormalization, momentum 0.9 as in the paper)",
    "ln": "layer normalization over channels and space (GroupNorm with 1 group)",
    "in": "instance normalization (GroupNorm with as many groups as channels)",
    "gn": "group normalization",
    "ws": "weight standardization without any normalization layer (scaled, as in NFNets)",
    "gn+ws": "group normalization and weight standardization together (as in BiT)",
    "none": "no normalization",
}

_SPELLING = re.compile(r"(gn|gn\+ws):(groups|size)=(\d+)")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A normalization with its groups: one row of the report's tables.

    Attributes:
        norm: a key of `NORMS`.
        groups: groups of each GroupNorm (-1: as many as channels), or `None`.
        group_size: channels per group, or `None`.
    """

    norm: str
    groups: int | None
    group_size: int | None

    @property
    def has_group_norm(self) -> bool:
        """Whether the network has GroupNorms, with whatever number of groups."""
        return self.groups is not None or self.group_size is not None


def parse(text: str, groups: int | None, group_size: int | None) -> Variant:
    """Returns what a norm of the command line stands for.

    Args:
        text: a key of `NORMS`, or `gn` or `gn+ws` with groups of its own: `gn:groups=4` (4
            groups) or `gn:size=4` (4 channels per group).
        groups: groups where the text gives none, or `None`.
        group_size: channels per group where the text gives none, or `None`.

    Raises:
        StudyError: if the text is none of these.
    """
    if match := _SPELLING.fullmatch(text):
        norm, unit, count = match.groups()
        return Variant(
            norm,
            int(count) if unit == "groups" else None,
            int(count) if unit == "size" else None,
        )
    if text not in NORMS:
        raise StudyError(
            f"norms must be among {', '.join(NORMS)}, or as in gn:groups=4 or gn:size=4; "
            f"received {text!r}"
        )
    if "gn" in text:
        return Variant(text, groups, group_size)
    return Variant(text, {"ln": 1, "in": -1}.get(text), None)


def variants(
    texts: Iterable[str], groups: int | None, group_size: int | None
) -> dict[str, Variant]:
    """Returns what several norms of the command line stand for; see `parse`."""
    return {text: parse(text, groups, group_size) for text in texts}


def norm_of(text: str) -> str:
    """Returns the key of `NORMS` of a norm of the command line."""
    return text.partition(":")[0]
