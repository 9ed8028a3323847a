"""The images of a study, in one file that all runs load."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tfgn_base.files import whole

from ..config import Study
from ..errors import StudyError
from ..mistakes import count_classes
from ..options import HELD_OUT
from . import public, sources
from .fashion_mnist import fashion_mnist
from .masks import masks

#: The functions that find the images, by `Study.dataset`.
SOURCES: dict[str, Callable[[Study], sources.Source]] = {
    "digits": sources.digits,
    "folder": sources.folder,
    "masks": masks,
    "pets": public.pets,
    "cifar10": public.cifar10,
    "fashion-mnist": fashion_mnist,
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images on disk, split into training and validation images.

    Attributes:
        name: readable name of the images.
        path: an `.npz` file with `x_train`, `x_val` (uint8, `[N, side, side, channels]`) and
            `y_train`, `y_val` (classes, int64 `[N]`, or masks, uint8 `[N, side, side]`).
        digest: changes when the images or the split do.
        classes: number of classes.
        train: number of training images.
        val: number of validation images.
    """

    name: str
    path: Path
    digest: str
    classes: int
    train: int
    val: int


def prepare(study: Study, track: sources.Track) -> Dataset:
    """Reads, resizes and splits the images, unless the file of an earlier call has them.

    Args:
        study: the study; its `dataset`, `data`, `masks`, `image_size`, `validation_split`, `limit`,
            `train_limit`, `validation_limit` and `out` count.
        track: wraps the image files in a progress bar with a description.

    Returns:
        The data set.

    Raises:
        StudyError: if the images are not where they should be, cannot be read or downloaded, are
            fewer than a limit, or a class is too small to be split.
    """
    source = SOURCES[study.dataset](study)
    identity = [source.identity, study.image_size, study.validation_split, sources.SPLIT_SEED]
    if study.limit is not None:
        identity.append(study.limit)
    if study.train_limit is not None or study.validation_limit is not None:
        identity.append([study.train_limit, study.validation_limit])
    digest = _digest(identity)
    path = study.out / f"data-{digest}.npz"
    if not path.exists():
        x_train, y_train, x_val, y_val = sources.limited(source.read(track), study)
        with whole(path) as unfinished:
            np.savez(unfinished, x_train=x_train, y_train=y_train, x_val=x_val, y_val=y_val)
    with np.load(path, allow_pickle=False) as arrays:
        y_train, y_val = arrays["y_train"], arrays["y_val"]
    classes = max(count_classes(y_train), count_classes(y_val))
    return Dataset(source.name, path, digest, classes, len(y_train), len(y_val))


def hold_out(dataset: Dataset) -> Dataset:
    """Returns the training images alone, a stratified part of them as validation images.

    Args:
        dataset: the result of `prepare`.

    Raises:
        StudyError: if there are too few images of a class.
    """
    digest = _digest([dataset.digest, HELD_OUT, sources.SPLIT_SEED])
    path = dataset.path.with_name(f"data-{digest}.npz")
    with np.load(dataset.path, allow_pickle=False) as arrays:
        x, y = arrays["x_train"], arrays["y_train"]
    try:
        train, val = sources.split(y, HELD_OUT)
    except StudyError:
        raise StudyError(
            f"--tune-learning-rate holds out {HELD_OUT:.0%} of the {len(y)} training images, which "
            "leaves classes without an image"
        ) from None
    if not path.exists():
        with whole(path) as unfinished:
            np.savez(unfinished, x_train=x[train], y_train=y[train], x_val=x[val], y_val=y[val])
    return Dataset(dataset.name, path, digest, dataset.classes, len(train), len(val))


def _digest(identity: list[Any]) -> str:
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
