"""Where the images of a study come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ..config import Study
from ..description import require
from ..errors import StudyError
from ..mistakes import count_classes

SUFFIXES = (".png", ".jpg", ".jpeg")

#: Seed of the split into training and validation images, the same for every run of every study.
SPLIT_SEED = 0

#: Wraps an iterable in a progress bar with a description.
Track: TypeAlias = Callable[[Iterable[Any], str], Iterable[Any]]

#: `x_train`, `y_train`, `x_val` and `y_val`; a label is a class, or a mask of classes.
Arrays: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """Images that can be read.

    Attributes:
        name: readable name of the images.
        identity: JSON that changes when the images or the split do.
        read: reads the images, given a progress bar for the files.
    """

    name: str
    identity: list[Any]
    read: Callable[[Track], Arrays]


def identity_of(files: list[Path], folder: Path) -> list[Any]:
    """Returns the names, sizes and modification times of files."""
    stats = [path.stat() for path in files]
    return [
        [path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns]
        for path, stat in zip(files, stats, strict=True)
    ]


def digits(study: Study) -> Source:
    """Returns the handwritten digits of scikit-learn, which are gray images."""
    labels = load_digits().target
    train, val = split(labels, study.validation_split)

    def read(track: Track) -> Arrays:
        images = _resized_digits(study.image_size)
        return images[train], labels[train], images[val], labels[val]

    return Source("handwritten digits of scikit-learn", ["digits"], read)


def folder(study: Study) -> Source:
    """Returns a folder with one folder of images per class."""
    if study.data is None:
        raise StudyError("--data must be a folder of class folders; no folder is given")
    files, labels = _list_files(study.data)
    train, val = split(labels, study.validation_split)

    def read(track: Track) -> Arrays:
        images = read_images(files, study.image_size, track)
        return images[train], labels[train], images[val], labels[val]

    return Source(str(study.data), identity_of(files, study.data), read)


def count_other_files(study: Study) -> int:
    """Returns how many files in the class folders are no images, and so are not used."""
    if study.dataset != "folder" or study.data is None:
        return 0
    files = [path for path in study.data.glob("*/*") if path.is_file()]
    return sum(path.suffix.lower() not in SUFFIXES for path in files)


def read_images(files: list[Path], side: int, track: Track) -> np.ndarray:
    """Returns the central squares of images, RGB, uint8 `[N, side, side, 3]`."""
    return np.stack([_read(file, side) for file in track(files, "reading images")])


def square(image: Image.Image, side: int) -> np.ndarray:
    """Returns the central square of an image, RGB, uint8 `[side, side, 3]`."""
    return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR))


def split(labels: np.ndarray, validation_split: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the training and of the validation images.

    Args:
        labels: classes, `[N]`, of which both have the same share, or masks.
        validation_split: the share of the validation images.

    Raises:
        StudyError: if a class is too small.
    """
    try:
        return train_test_split(
            np.arange(len(labels)),
            test_size=validation_split,
            stratify=_strata(labels),
            random_state=SPLIT_SEED,
        )
    except ValueError as error:
        raise StudyError(
            f"--validation-split={validation_split} of {len(labels)} images in "
            f"{count_classes(labels)} classes leaves classes without an image: {error}"
        ) from error


def _strata(labels: np.ndarray) -> np.ndarray | None:
    """Returns what is to be shared out evenly; an image with a mask is of no single class."""
    return labels if labels.ndim == 1 else None


def limited(arrays: Arrays, study: Study) -> Arrays:
    """Returns a part of the training and validation images, stratified by class.

    Args:
        arrays: the images and labels.
        study: the study; its `limit`, `train_limit` and `validation_limit` count.

    Raises:
        StudyError: if there are fewer images, or too few of a class in the part.
    """
    x_train, y_train, x_val, y_val = arrays
    for flag, kind, count, most in (
        ("--limit", "", study.limit, len(y_train) + len(y_val)),
        ("--train-limit", "training ", study.train_limit, len(y_train)),
        ("--validation-limit", "validation ", study.validation_limit, len(y_val)),
    ):
        wanted = f"at most the {most} {kind}images"
        require(count is None or count <= most, flag, count, wanted)
    if study.limit is None:
        train = _part(y_train, study.train_limit, f"--train-limit={study.train_limit}")
        val = _part(y_val, study.validation_limit, f"--validation-limit={study.validation_limit}")
    else:
        of_val = round(study.limit * len(y_val) / (len(y_train) + len(y_val)))
        train, val = (
            _part(labels, count, f"--limit={study.limit}")
            for labels, count in ((y_train, study.limit - of_val), (y_val, of_val))
        )
    return x_train[train], y_train[train], x_val[val], y_val[val]


def _part(labels: np.ndarray, count: int | None, given: str) -> np.ndarray:
    """Returns the indices of so many images, ascending; of all for `None`."""
    indices = np.arange(len(labels))
    if count is None or count == len(labels):
        return indices
    try:
        part, _ = train_test_split(
            indices, train_size=count, stratify=_strata(labels), random_state=SPLIT_SEED
        )
    except ValueError as error:
        raise StudyError(f"{given} leaves classes without an image: {error}") from error
    return np.sort(part)


def _resized_digits(side: int) -> np.ndarray:
    images = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    resized = [
        Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR) for image in images
    ]
    return np.stack([np.asarray(image) for image in resized])[..., None]


def _list_files(folder: Path) -> tuple[list[Path], np.ndarray]:
    if not folder.is_dir():
        raise StudyError(f"--data must be a folder of class folders; there is no folder {folder}")
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
        raise StudyError(f"--data must have at least 2 class folders; {folder} has {len(classes)}")
    return files, np.array(labels)


def _read(path: Path, side: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return square(image, side)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise StudyError(f"{path} cannot be read as an image: {error}") from error
