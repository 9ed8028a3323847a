"""The normalizations that a study compares, and how the command line spells them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from .errors import StudyError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    """A normalization that a study compares, or the way in which it is used.

    Attributes:
        text: the sentence that `tfgn study --help` and the report give for it.
        standardization: variant of the weight standardization of its convolutions, or `None`.
        groups: its number of groups, if that is what defines it (-1: as many as channels).
        takes_groups: whether the options `groups` and `group_size` apply to it.
        saves_memory: whether `save_memory` applies to it.
        twin: the norm that is trained in the same way; one training gives both results. `None` if
            there is none.
        update_size: least number of images whose gradients make an update of the weights.
        agc: factor of adaptive gradient clipping unless the option `agc` gives one, or `None`.
        least_epochs: least number of epochs.
    """

    text: str
    standardization: str | None = None
    groups: int | None = None
    takes_groups: bool = False
    saves_memory: bool = False
    twin: str | None = None
    update_size: int = 1
    agc: float | None = None
    least_epochs: int = 1


NORMS = {
    "bn": Norm(
        text="batch normalization (keras.layers.BatchNormalization, momentum 0.9 as in the paper)"
    ),
    "bn+precise": Norm(
        text="bn, with statistics measured anew over all training images, 256 at a time, before "
        "each validation (arXiv 2105.07576, section 3; what it gains is the loss of bn to its "
        "moving averages, arXiv 1904.06031)",
        twin="bn",
    ),
    "bn+renorm": Norm(
        text="batch renormalization (keras.layers.BatchNormalization(renorm=True)); r grows to 3 "
        "and d to 5 as in the paper (arXiv 1702.03275)",
    ),
    "bn+frozen": Norm(
        text="bn, with statistics measured as by bn+precise and frozen for the last fifth of the "
        "epochs, in training too (arXiv 2105.07576, section 4.2)",
        least_epochs=5,
    ),
    "bn+accumulate": Norm(
        text="bn, with the gradients of several batches accumulated to those of 16 images or more "
        "for each update; the learning rate is that of as many images",
        update_size=16,
    ),
    "ln": Norm(
        text="layer normalization over channels and space (GroupNorm with 1 group)",
        groups=1,
        saves_memory=True,
    ),
    "in": Norm(
        text="instance normalization (GroupNorm with as many groups as channels)",
        groups=-1,
        saves_memory=True,
    ),
    "gn": Norm(text="group normalization", takes_groups=True, saves_memory=True),
    "gn+ws": Norm(
        text="group normalization and weight standardization together (as in BiT)",
        standardization="bit",
        takes_groups=True,
        saves_memory=True,
    ),
    "gn+pn": Norm(
        text="group normalization and proxy normalization of the ReLUs behind it (arXiv "
        "2106.03743)",
        takes_groups=True,
    ),
    "bcn+ws": Norm(
        text="batch-channel normalization (batch normalization by moving statistics, in training "
        "too, then group normalization) and weight standardization (arXiv 1903.10520)",
        standardization="bit",
        takes_groups=True,
    ),
    "frn": Norm(
        text="filter response normalization, with thresholded linear units in the place of ReLUs "
        "(arXiv 1911.09737)"
    ),
    "evonorm-s0": Norm(
        text="EvoNorm-S0, in the place of a normalization and its ReLU (arXiv 2004.02967)",
        takes_groups=True,
    ),
    "ws": Norm(
        text="weight standardization without any normalization layer (scaled, as in NFNets)",
        standardization="nfnet",
    ),
    "nf": Norm(
        text="ws, with scaled ReLUs, residual branches that start at 0, and adaptive gradient "
        "clipping with a factor of 0.16 unless --agc gives another (NFNets, arXiv 2102.06171, "
        "where 0.01 is for batches of 4096 images and smaller batches take more)",
        standardization="nfnet",
        agc=0.16,
    ),
    "none": Norm(text="no normalization"),
}

_GROUPED = [name for name, norm in NORMS.items() if norm.takes_groups]
_SPELLING = re.compile(rf"({'|'.join(map(re.escape, _GROUPED))}):(groups|size)=(\d+)")


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
    def saves_memory(self) -> bool:
        """Whether the option `save_memory` applies to the network."""
        return NORMS[self.norm].saves_memory


def parse(text: str, groups: int | None, group_size: int | None) -> Variant:
    """Returns what a norm of the command line stands for.

    Args:
        text: a key of `NORMS`, or one that takes groups with groups of its own: `gn:groups=4` (4
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
            f"--norms must be among {', '.join(NORMS)}, or as in gn:groups=4 or gn:size=4; "
            f"received {text!r}"
        )
    if NORMS[text].takes_groups:
        return Variant(text, groups, group_size)
    return Variant(text, NORMS[text].groups, None)


def variants(
    texts: Iterable[str], groups: int | None, group_size: int | None
) -> dict[str, Variant]:
    """Returns what several norms of the command line stand for; see `parse`."""
    return {text: parse(text, groups, group_size) for text in texts}


def norm_of(text: str) -> str:
    """Returns the key of `NORMS` of a norm of the command line."""
    return text.partition(":")[0]
