"""Fashion-MNIST: 70,000 gray images of clothes in 10 classes (arXiv 1708.07747)."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ..config import Study
from ..errors import StudyError
from .sources import Arrays, Source, Track

#: The files, in the order of `Arrays`; they may be compressed, with the suffix ".gz".
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
HELP = (
    f"--data must be a folder with the files {', '.join(f'{name}.gz' for name in FILES)} of "
    "https://github.com/zalandoresearch/fashion-mnist"
)
SIDE = 28
CLASSES = 10

#: Where Debian's package dataset-fashion-mnist has the files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")

#: The type of unsigned bytes in the head of an idx file.
_BYTES = 8


def fashion_mnist(study: Study) -> Source:
    """Returns Fashion-MNIST in the published split.

    The files are those in the folder `study.data`, else those of Debian's package, else those in
    Keras' cache, to which Keras downloads them if need be.

    Raises:
        StudyError: if a file is missing or broken, or cannot be downloaded.
    """
    if study.data is not None:
        arrays = _read_folder(study.data)
    else:
        found = next((folder for folder in (DEBIAN, _cache()) if _is_complete(folder)), None)
        arrays = _download() if found is None else _read_folder(found)
    content = hashlib.sha256()
    for array in arrays:
        content.update(array.tobytes())
    x_train, y_train, x_val, y_val = arrays

    def read(track: Track) -> Arrays:
        return (
            _resized(x_train, study.image_size, track),
            y_train.astype(np.int64),
            _resized(x_val, study.image_size, track),
            y_val.astype(np.int64),
        )

    # The same images from another place are the same data set.
    return Source("Fashion-MNIST", ["fashion-mnist", content.hexdigest()], read)


def _cache() -> Path:
    home = os.environ.get("KERAS_HOME", "~/.keras")
    return Path(home).expanduser() / "datasets" / "fashion-mnist"


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _is_complete(folder: Path) -> bool:
    return all(_find(folder, name) is not None for name in FILES)


def _read_folder(folder: Path) -> list[np.ndarray]:
    arrays = []
    for name in FILES:
        path = _find(folder, name)
        if path is None:
            raise StudyError(f"{HELP}; there is no file {folder / name}.gz")
        arrays.append(_read(path, (SIDE, SIDE) if "images" in name else ()))
        if "labels" in name and (len(arrays[-1]) != len(arrays[-2]) or arrays[-1].max() >= CLASSES):
            raise StudyError(
                f"{path} must have labels below {CLASSES}, as many as there are images"
            )
    return arrays


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the entries of an idx file, each of this shape.

    An idx file has two bytes 0, the type, the number of dimensions, the dimensions as big-endian
    integers of 4 bytes, and the data.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"{path} cannot be read: {error}") from None
    rank = 1 + len(shape)
    start = 4 + 4 * rank
    dimensions = tuple(np.frombuffer(raw[4:start], ">i4").tolist()) if len(raw) >= start else ()
    head = bytes((0, 0, _BYTES, rank))
    count = len(raw) - start
    if (
        not raw.startswith(head)
        or dimensions[1:] != shape
        or count != np.prod(dimensions)
        or not count
    ):
        what = "x".join(map(str, shape)) + " pixels" if shape else "labels"
        raise StudyError(
            f"{path} must be a whole idx file of {what}; it has {len(raw)} bytes, uncompressed"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(dimensions)


def _download() -> list[np.ndarray]:
    import keras

    try:
        (x_train, y_train), (x_val, y_val) = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Network and disk raise many kinds.
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise StudyError(
            f"Fashion-MNIST cannot be downloaded ({reason}); without a download, install Debian's "
            f"package dataset-fashion-mnist, or {HELP}"
        ) from error
    return [x_train, y_train, x_val, y_val]


def _resized(images: np.ndarray, side: int, track: Track) -> np.ndarray:
    """Returns images of this side, `[N, side, side, 1]`."""
    if side != SIDE:
        images = np.stack(
            [
                np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
                for image in track(images, "resizing images")
            ]
        )
    return images[..., None]
