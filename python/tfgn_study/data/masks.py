"""Images with a mask each, which names the class of every pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..config import Study
from ..errors import StudyError
from ..options import IGNORED
from .sources import SUFFIXES, Arrays, Source, Track, identity_of, read_images, split

HELP = "a mask must be a gray or palette PNG with the index of a class in each pixel"


def masks(study: Study) -> Source:
    """Returns a folder of images with a folder of masks: `name.jpg` and `name.png`.

    Raises:
        StudyError: if a folder, a mask or an image is missing or unreadable, the sizes of an image
            and its mask differ, or the values of the masks are no classes.
    """
    folder, of_masks = study.data, study.masks
    if folder is None or of_masks is None:
        raise StudyError("--data and --masks must be folders of images; one is not given")
    images = _list(folder, "--data", SUFFIXES)
    of_stem = {path.stem: path for path in _list(of_masks, "--masks", (".png",))}
    missing = next((image for image in images if image.stem not in of_stem), None)
    if missing is not None:
        raise StudyError(f"{missing} has no mask {of_masks / missing.stem}.png")
    files = [of_stem[image.stem] for image in images]

    def read(track: Track) -> Arrays:
        y = np.stack(
            [
                _read(mask, image, study.image_size)
                for mask, image in track(list(zip(files, images, strict=True)), "reading masks")
            ]
        )
        _check_classes(y, of_masks)
        train, val = split(y, study.validation_split)
        x = read_images(images, study.image_size, track)
        return x[train], y[train], x[val], y[val]

    identity = [identity_of(images, folder), identity_of(files, of_masks)]
    return Source(str(folder), ["masks", *identity], read)


def _list(folder: Path, flag: str, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise StudyError(f"{flag} must be a folder of images; there is no folder {folder}")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if len(files) < 2:
        raise StudyError(
            f"{flag} must be a folder of at least 2 images ({', '.join(suffixes)}); {folder} "
            f"holds {len(files)}"
        )
    return files


def _read(path: Path, image: Path, side: int) -> np.ndarray:
    """Returns the central square of a mask, as `sources.square` cuts that of its image."""
    try:
        with Image.open(path) as mask, Image.open(image) as opened:
            if mask.size != opened.size:
                sizes = ["x".join(map(str, one.size)) for one in (mask, opened)]
                raise StudyError(f"{path} is of {sizes[0]} pixels, its image of {sizes[1]}")
            if mask.mode not in ("1", "L", "P"):
                raise StudyError(f"{HELP}; {path} is of the mode {mask.mode!r}")
            # Of the mode "1" the values are 0 and 1; a conversion to "L" would make that 255.
            indices = Image.fromarray(np.asarray(mask).astype(np.uint8))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise StudyError(f"{path} cannot be read as an image: {error}") from error
    return np.asarray(ImageOps.fit(indices, (side, side), Image.Resampling.NEAREST))


def _check_classes(labels: np.ndarray, folder: Path) -> None:
    values = [int(value) for value in np.unique(labels) if value != IGNORED]
    if len(values) < 2:
        raise StudyError(
            f"--masks must have at least 2 classes ({IGNORED} is none: it is ignored); those of "
            f"{folder} have the values {values}"
        )
    if values != list(range(len(values))):
        gap = next(index for index, value in enumerate(values) if index != value)
        raise StudyError(
            f"--masks must have classes from 0 on without a gap; those of {folder} have pixels of "
            f"{values[-1]} and none of {gap}"
        )
