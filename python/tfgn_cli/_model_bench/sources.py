"""The models of the rows, converted in processes of their own.

TensorFlow's allocator keeps what a process has once taken. A row that converts its model itself
would count the memory of the conversion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .job import AS_IT_IS, Job


class Source(NamedTuple):
    """What the process of a row loads.

    Attributes:
        job: the job, with the file of the converted model in place of the model.
        variant: what is left to do: `AS_IT_IS` for a file that is converted.
        notes: on the conversion.
    """

    job: Job
    variant: str
    notes: list[str]


class Sources:
    """Converts a model to files, each variant once.

    Args:
        job: the model as it is.
        folder: for the files.
        ask: from a method of `Measurer` and its arguments to the answer of a new process.
    """

    def __init__(self, job: Job, folder: Path, ask: Callable[..., dict[str, Any]]):
        """See the class."""
        self._job, self._folder, self._ask = job, folder, ask
        self._converted: dict[str, Source] = {}

    def of(self, variant: str) -> Source:
        """Returns the source of a variant.

        Raises:
            RefusedError: if the model cannot be converted.
            WorkerError: if the process of the conversion fails.
        """
        if variant == AS_IT_IS:
            return Source(self._job, variant, [])
        if variant not in self._converted:
            path = self._folder / f"{len(self._converted)}.keras"
            answer = self._ask("convert", self._job, variant, str(path))
            if answer["saved"]:
                job = dataclasses.replace(self._job, model=str(path))
                self._converted[variant] = Source(job, AS_IT_IS, answer["notes"])
            else:  # The row has to convert it.
                self._converted[variant] = Source(self._job, variant, answer["notes"])
        return self._converted[variant]
