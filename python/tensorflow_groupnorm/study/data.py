"""Reads the images of a study and keeps a copy that every run loads in the same way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .config import Study, StudyError
from .files import atomic

SUFFIXES = (".png", ".jpg", ".jpeg")

#: Seeds the split into training and validation images, the same for every run of every study.
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images on disk, split once.

    Attributes:
        name: what the images are, for people.
        path: an `.npz` file with `x_train`, `x_val` (uint8, `[N, side, side, channels]`) and
            `y_train`, `y_val` (int64, `[N]`).
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


def prepare(study: Study, track: Callable[[Iterable, str], Iterable]) -> Dataset:
    """Reads, resizes and splits the images, unless that has been done before.

    Args:
        study: its `data`, `image_size`, `validation_split` and `out`.
        track: wraps the image files in a progress bar, given a description.

    Returns:
        The data set.

    Raises:
        StudyError: if the folder is not one of class folders with readable images, or a class is
            too small to be split.
    """
    if study.data is None:
        labels = load_digits().target
        name, identity = "handwritten digits of scikit-learn", ["digits"]
    else:
        files, labels = _list_files(study.data)
        name = str(study.data)
        stats = [path.stat() for path in files]
        identity = [
            [path.relative_to(study.data).as_posix(), stat.st_size, stat.st_mtime_ns]
            for path, stat in zip(files, stats, strict=True)
        ]
    identity = [identity, study.image_size, study.validation_split, SPLIT_SEED]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    train, val = _split(labels, study.validation_split)
    path = study.out / f"data-{digest}.npz"
    if not path.exists():
        if study.data is None:
            images = _digits(study.image_size)
        else:
            images = np.stack(
                [_read(file, study.image_size) for file in track(files, "reading images")]
            )
        with atomic(path) as file:
            np.savez(
                file,
                x_train=images[train],
                y_train=labels[train],
                x_val=images[val],
                y_val=labels[val],
            )
    return Dataset(name, path, digest, int(labels.max()) + 1, len(train), len(val))


def _digits(side: int) -> np.ndarray:
    images = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    resized = [
        Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR) for image in images
    ]
    return np.stack([np.asarray(image) for image in resized])[..., None]


def _list_files(folder: Path) -> tuple[list[Path], np.ndarray]:
    if not folder.is_dir():
        raise StudyError(f"data must be a folder of class folders; there is no folder {folder}")
    classes = sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    files, labels = [], []
    for label, class_folder in enumerate(classes):
        images = sorted(p for p in class_folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if len(images) < 2:
            raise StudyError(
                f"each class folder must hold at least 2 images ({', '.join(SUFFIXES)}); "
                f"{class_folder} holds {len(images)}"
            )
        files += images
        labels += [label] * len(images)
    if len(classes) < 2:
        raise StudyError(f"data must have at least 2 class folders; {folder} has {len(classes)}")
    return files, np.array(labels)


def _split(labels: np.ndarray, validation_split: float) -> tuple[np.ndarray, np.ndarray]:
    try:
        return train_test_split(
            np.arange(len(labels)),
            test_size=validation_split,
            stratify=labels,
            random_state=SPLIT_SEED,
        )
    except ValueError as error:
        raise StudyError(
            f"validation_split={validation_split} of {len(labels)} images in "
            f"{labels.max() + 1} classes leaves classes without an image: {error}"
        ) from error


def _read(path: Path, side: int) -> np.ndarray:
    """Returns the central square of an image, RGB, uint8 `[side, side, 3]`."""
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
            return np.asarray(square)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise StudyError(f"{path} cannot be read as an image: {error}") from error
