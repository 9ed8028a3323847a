"""Public data sets: unpacked from their archives, or downloaded by TensorFlow Datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tfgn_base.extras import install_command

from ..config import Study
from ..errors import StudyError
from .sources import Arrays, Source, Track, identity_of, read_images, square

PETS_HELP = (
    "--data must be a folder with the unpacked images.tar.gz and annotations.tar.gz of "
    "https://www.robots.ox.ac.uk/~vgg/data/pets/"
)
CIFAR10_HELP = (
    "--data must be the folder cifar-10-batches-bin of the unpacked cifar-10-binary.tar.gz of "
    "https://www.cs.toronto.edu/~kriz/cifar.html"
)

CIFAR10_SIDE = 32
CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR10_VAL = ("test_batch.bin",)


def pets(study: Study) -> Source:
    """Returns the Oxford-IIIT Pets, 37 breeds of cats and dogs, in the published split."""
    if study.data is None:
        return _from_tfds("oxford_iiit_pet", "Oxford-IIIT Pets", PETS_HELP, study)
    train_files, y_train = _list_pets(study.data, "trainval.txt")
    val_files, y_val = _list_pets(study.data, "test.txt")
    files = train_files + val_files
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise StudyError(f"{PETS_HELP}; there is no file {missing}")

    def read(track: Track) -> Arrays:
        images = read_images(files, study.image_size, track)
        return images[: len(train_files)], y_train, images[len(train_files) :], y_val

    labels = [y_train.tolist(), y_val.tolist()]
    return Source("Oxford-IIIT Pets", ["pets", identity_of(files, study.data), labels], read)


def cifar10(study: Study) -> Source:
    """Returns CIFAR-10, 10 classes, in the published split."""
    if study.data is None:
        return _from_tfds("cifar10", "CIFAR-10", CIFAR10_HELP, study)
    files = [study.data / name for name in CIFAR10_TRAIN + CIFAR10_VAL]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise StudyError(f"{CIFAR10_HELP}; there is no file {missing}")

    def read(track: Track) -> Arrays:
        parts = [_read_cifar10(file, study.image_size) for file in track(files, "reading images")]
        images, labels = ([part[i] for part in parts] for i in range(2))
        return np.concatenate(images[:5]), np.concatenate(labels[:5]), images[5], labels[5]

    return Source("CIFAR-10", ["cifar10", identity_of(files, study.data)], read)


def _list_pets(folder: Path, name: str) -> tuple[list[Path], np.ndarray]:
    """Reads lines of a name and a class number from 1; two more numbers are not used."""
    path = folder / "annotations" / name
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        lines = [words for words in lines if words and not words[0].startswith("#")]
        labels = np.array([int(words[1]) - 1 for words in lines], np.int64)
    except OSError as error:
        raise StudyError(f"{PETS_HELP}; {path} cannot be read: {error.strerror}") from None
    except (ValueError, IndexError):
        raise StudyError(f"{path} must have lines of a name and a class number") from None
    if not lines or labels.min() < 0:
        raise StudyError(f"{path} must have lines of a name and a class number from 1 on")
    return [folder / "images" / f"{words[0]}.jpg" for words in lines], labels


def _read_cifar10(path: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads records of a label and a red, a green and a blue plane."""
    raw = np.fromfile(path, np.uint8)
    record = 1 + 3 * CIFAR10_SIDE**2
    if not len(raw) or len(raw) % record:
        raise StudyError(
            f"{path} must consist of records of {record} bytes; it has {len(raw)} bytes"
        )
    raw = raw.reshape(-1, record)
    images = raw[:, 1:].reshape(-1, 3, CIFAR10_SIDE, CIFAR10_SIDE).transpose(0, 2, 3, 1)
    if side != CIFAR10_SIDE:
        images = np.stack([square(Image.fromarray(image), side) for image in images])
    return np.ascontiguousarray(images), raw[:, 0].astype(np.int64)


def _from_tfds(name: str, title: str, instead: str, study: Study) -> Source:
    """Returns a data set of TensorFlow Datasets, with the splits "train" and "test"."""
    try:
        import tensorflow_datasets
    except ModuleNotFoundError:
        raise StudyError(
            f"{title} can be downloaded with tensorflow-datasets, which is not installed "
            f"({install_command('datasets')}); without it, {instead}"
        ) from None
    builder = tensorflow_datasets.builder(name)

    def read_split(part: str, track: Track) -> tuple[np.ndarray, np.ndarray]:
        examples = tensorflow_datasets.as_numpy(builder.as_dataset(part, as_supervised=True))
        images, labels = [], []
        for image, label in track(examples, f"reading {part} images"):
            images.append(square(Image.fromarray(image), study.image_size))
            labels.append(label)
        return np.stack(images), np.array(labels, np.int64)

    def read(track: Track) -> Arrays:
        try:
            builder.download_and_prepare()
        except Exception as error:  # Network and disk raise many kinds.
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise StudyError(
                f"{title} cannot be downloaded ({reason}); without a download, {instead}"
            ) from error
        return *read_split("train", track), *read_split("test", track)

    return Source(title, ["tfds", name, str(builder.version)], read)
