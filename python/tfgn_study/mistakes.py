"""What a network gets wrong on each validation image, as text in a result.

An error is a function of sums over the images, so that a report can compute it on resamples.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from .options import IGNORED


class Mistakes(Protocol):
    """A kind of mistakes, from which an error follows.

    Attributes:
        key: name of the texts in a result, one for each final epoch.
    """

    key: str

    def of(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Returns the mistakes on a batch, `[N, ...]`."""

    def encode(self, mistakes: np.ndarray) -> str:
        """Returns the text for the mistakes on all images, `[images, ...]`."""

    def decode(self, text: str, images: int) -> np.ndarray:
        """Returns the mistakes of a text as `[images, columns]`."""

    def error(self, sums: np.ndarray, images: int) -> np.ndarray:
        """Returns the errors in [0, 1] of sums over the images, `[..., columns]`."""


class WrongImages:
    """The images of which the class is wrong; the error is their part."""

    key = "wrong"

    def of(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Returns which images are wrong, `[N]` bool, for `[N]` and `[N, classes]`."""
        return logits.argmax(-1) != labels

    def encode(self, mistakes: np.ndarray) -> str:
        """Returns a bit per image, eight to a byte, in base64."""
        return base64.b64encode(np.packbits(mistakes).tobytes()).decode()

    def decode(self, text: str, images: int) -> np.ndarray:
        """Returns `[images, 1]` bool."""
        packed = np.frombuffer(base64.b64decode(text), np.uint8)
        return np.unpackbits(packed, count=images).astype(bool)[:, None]

    def error(self, sums: np.ndarray, images: int) -> np.ndarray:
        """Returns the part of the images that are wrong."""
        return sums[..., 0] / images


class Overlaps:
    """Intersection and union of masks; the error is 1 minus their mean ratio over the classes.

    The intersection of a class is the number of pixels that are of the class and segmented as such,
    the union that of pixels that are either. Both are summed over all images before they are
    divided, as in PASCAL VOC. A class without a pixel in either does not count.
    """

    key = "overlaps"

    def of(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Returns `[N, classes, 2]` int32, for `[N, side, side]` and `[N, side, side, classes]`."""
        counted = labels != IGNORED
        found = logits.argmax(-1)
        counts = np.empty((len(labels), logits.shape[-1], 2), np.int32)
        for index in range(logits.shape[-1]):
            is_class, is_found = labels == index, found == index
            counts[:, index, 0] = (is_class & is_found & counted).sum((1, 2))
            counts[:, index, 1] = ((is_class | is_found) & counted).sum((1, 2))
        return counts

    def encode(self, mistakes: np.ndarray) -> str:
        """Returns the int32, little-endian, compressed by zlib, in base64."""
        packed = zlib.compress(mistakes.astype("<i4").tobytes())
        return base64.b64encode(packed).decode()

    def decode(self, text: str, images: int) -> np.ndarray:
        """Returns `[images, 2 * classes]` int32."""
        packed = zlib.decompress(base64.b64decode(text))
        return np.frombuffer(packed, "<i4").reshape(images, -1)

    def error(self, sums: np.ndarray, images: int) -> np.ndarray:
        """Returns 1 minus the mean intersection over union."""
        intersection, union = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 2), -1, 0)
        ratio = np.divide(intersection, union, out=np.zeros(union.shape), where=union > 0)
        return 1 - ratio.sum(-1) / np.maximum(1, (union > 0).sum(-1))


WRONG_IMAGES = WrongImages()
OVERLAPS = Overlaps()


def of_labels(labels: np.ndarray) -> Mistakes:
    """Returns the kind for these labels: `[N]` classes of images, or `[N, side, side]` masks."""
    return WRONG_IMAGES if labels.ndim == 1 else OVERLAPS


def of_run(run: Mapping[str, Any]) -> Mistakes:
    """Returns the kind of which a result has the texts."""
    return OVERLAPS if OVERLAPS.key in run else WRONG_IMAGES


def count_classes(labels: np.ndarray) -> int:
    """Returns the number of classes of labels, see `of_labels`: the largest index plus 1."""
    counted = labels if labels.ndim == 1 else labels[labels != IGNORED]
    return int(counted.max(initial=0)) + 1
