"""What `tfgn bench MODEL` measures."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

AS_IT_IS, CONVERTED, SAVING = "as it is", "converted", "converted, save_memory"
VARIANTS = (AS_IT_IS, CONVERTED, SAVING)


@dataclasses.dataclass(frozen=True)
class Job:
    """A model and how to feed it.

    Attributes:
        model: the path of a file, or the name of a function of `keras.applications`.
        batch_size: the samples of a step.
        image_size: replaces the unknown sizes of the inputs, or None.
        groups: for `tfgn.convert`, or None for its default.
        modules: to import first.
    """

    model: str
    batch_size: int
    image_size: int | None = None
    groups: int | None = None
    modules: tuple[str, ...] = ()


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        variant: one of `VARIANTS`.
        jit: whether XLA compiles the step and the inference.
    """

    variant: str
    jit: bool

    @property
    def text(self) -> str:
        """The name of the row."""
        return self.variant + ", jit" * self.jit


class RefusedError(Exception):
    """Why a row cannot be measured, as a sentence."""
