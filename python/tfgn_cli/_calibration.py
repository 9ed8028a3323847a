"""Calibration data for int8 files: images of a folder, or arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfgn_base.extras import install_command

if TYPE_CHECKING:
    import numpy as np

#: More images make ranges hardly better, and take time.
_MOST_IMAGES = 512


class CalibrationError(Exception):
    """A folder has no calibration data for a model. The message says why."""


def read_folder(folder: Path, signature: list[Any], pixels: tuple[float, float]) -> np.ndarray:
    """Returns the images of a folder as inputs of a model.

    Args:
        folder: a folder with PNG and JPEG files, at any depth. Of more than 512, that many are
            taken, evenly over the sorted names.
        signature: of `named_signature`: one input of square RGB images.
        pixels: what the model takes for 0 and for 255.

    Returns:
        The central squares of the images, `[N, side, side, 3]`, in float32.

    Raises:
        CalibrationError: if the model takes something else, or there are no readable images.
        ImportError: if a package to read images is missing.
    """
    import keras
    import numpy as np

    specs = keras.tree.flatten(signature)
    shape = specs[0].shape.as_list() if specs[0].shape.rank else []
    if len(specs) != 1 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or not shape[1]:
        shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in specs)
        raise CalibrationError(
            "A folder of images is for models with one input [batch, side, side, 3] of a known "
            f"size; give an .npz file for the inputs {shapes}."
        )
    try:
        from tfgn_study.data.sources import SUFFIXES, read_images
        from tfgn_study.errors import StudyError
    except ImportError as error:
        needed = f"Reading images needs {error.name}: {install_command('study')}"
        raise ImportError(needed) from error
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise CalibrationError(f"There is no image ({', '.join(SUFFIXES)}) in {folder}.")
    if len(files) > _MOST_IMAGES:
        chosen = np.linspace(0, len(files) - 1, _MOST_IMAGES).round().astype(int)
        files = [files[i] for i in chosen]
    try:
        images = read_images(files, shape[1], lambda paths, _: paths)
    except StudyError as error:
        raise CalibrationError(str(error)) from error
    low, high = pixels
    return (low + (high - low) / 255 * images).astype(np.float32)
