"""Fashion-MNIST and parts of data sets, on generated images in the layout of the data set."""

import gzip
import struct

import keras
import numpy as np
import pytest
from study_runs import no_track, study
from tfgn_study.data import dataset as data
from tfgn_study.data import fashion_mnist
from tfgn_study.errors import StudyError
from tfgn_study.options import HELD_OUT


def idx(array):
    """An array of bytes in the format of idx files."""
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def generated():
    """60 training and 20 validation images; the first pixel is the number of the image."""
    arrays = []
    for count in (60, 20):
        x = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        x[:, 0, 0] = np.arange(count)
        arrays += [x, (np.arange(count) % 10).astype(np.uint8)]
    return arrays


def write(folder, compressed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(fashion_mnist.FILES, generated(), strict=True):
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No copy of the data set on this machine, and no way to download it."""

    def fail():
        raise OSError("no route\nto the host")

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", fail)


def check(dataset):
    x_train, y_train, x_val, y_val = generated()
    assert (dataset.name, dataset.classes) == ("Fashion-MNIST", 10)
    with np.load(dataset.path) as saved:
        np.testing.assert_array_equal(saved["x_train"], x_train[..., None])
        np.testing.assert_array_equal(saved["y_train"], y_train)
        np.testing.assert_array_equal(saved["x_val"], x_val[..., None])
        np.testing.assert_array_equal(saved["y_val"], y_val)
        assert (saved["x_train"].dtype, saved["y_train"].dtype) == (np.uint8, np.int64)


def test_every_place_has_the_same_data_set(tmp_path, monkeypatch):
    given = write(tmp_path / "given", compressed=False)
    found = [data.prepare(study(dataset="fashion-mnist", data=given, out=tmp_path), no_track)]
    check(found[0])
    places = [tmp_path / "keras" / "datasets" / "fashion-mnist", tmp_path / "debian"]
    for number, place in enumerate(places):
        write(place)
        out = tmp_path / str(number)
        out.mkdir()
        found.append(data.prepare(study(preset="fashion-mnist", out=out), no_track))
        check(found[-1])
        for path in place.iterdir():
            path.unlink()
    x_train, y_train, x_val, y_val = generated()
    downloaded = lambda: ((x_train, y_train), (x_val, y_val))  # noqa: E731
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", downloaded)
    (tmp_path / "2").mkdir()
    out = tmp_path / "2"
    found.append(data.prepare(study(dataset="fashion-mnist", out=out), no_track))
    check(found[-1])
    assert len({dataset.digest for dataset in found}) == 1


def test_images_of_another_size(tmp_path):
    planned = study(dataset="fashion-mnist", data=write(tmp_path), image_size=14, out=tmp_path)
    with np.load(data.prepare(planned, no_track).path) as saved:
        assert saved["x_train"].shape == (60, 14, 14, 1)


def test_download_that_cannot_be_is_one_sentence():
    with pytest.raises(StudyError) as error:
        fashion_mnist.fashion_mnist(study(dataset="fashion-mnist"))
    assert "\n" not in str(error.value)
    assert "cannot be downloaded (no route); without a download, install Debian's package" in str(
        error.value
    )


def head(name, change):
    """The content of a file with its first bytes changed."""
    content = idx(dict(zip(fashion_mnist.FILES, generated(), strict=True))[name])
    return change + content[len(change) :]


IMAGES, LABELS = fashion_mnist.FILES[:2]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (IMAGES, b"", "must be a whole idx file of 28x28 pixels; it has 0 bytes"),
        (IMAGES, head(IMAGES, b"")[:-1], "it has 47055 bytes, uncompressed"),
        (IMAGES, head(IMAGES, b"\0\0\x0d"), "must be a whole idx file of 28x28 pixels"),
        (LABELS, head(IMAGES, b""), "must be a whole idx file of labels"),
        (LABELS, idx(np.arange(59) % 10), "must have labels below 10, as many as there are images"),
        (LABELS, idx(np.full(60, 10)), "must have labels below 10"),
    ],
)
def test_broken_file_is_one_sentence(tmp_path, name, content, sentence):
    write(tmp_path)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    with pytest.raises(StudyError) as error:
        fashion_mnist.fashion_mnist(study(dataset="fashion-mnist", data=tmp_path))
    assert str(tmp_path / f"{name}.gz") in str(error.value) and sentence in str(error.value)


@pytest.mark.parametrize("change", ["truncated", "no archive"])
def test_broken_archive_is_one_sentence(tmp_path, change):
    path = write(tmp_path) / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-100] if change == "truncated" else b"text")
    with pytest.raises(StudyError, match=f"{IMAGES}.gz cannot be read: "):
        fashion_mnist.fashion_mnist(study(dataset="fashion-mnist", data=tmp_path))


# Parts of a data set.


def test_a_part_has_the_same_share_of_every_class(tmp_path):
    folder = write(tmp_path / "images")
    whole, part, again = (
        data.prepare(study(dataset="fashion-mnist", data=folder, out=tmp_path, **o), no_track)
        for o in ({}, {"limit": 40}, {"limit": 40})
    )
    assert (part.train, part.val) == (30, 10) and part == again
    assert part.digest != whole.digest
    x_train = generated()[0]
    with np.load(part.path) as saved:
        assert np.bincount(saved["y_train"]).tolist() == [3] * 10
        assert np.bincount(saved["y_val"]).tolist() == [1] * 10
        chosen = saved["x_train"][:, 0, 0, 0]
        assert len(set(chosen)) == 30
        np.testing.assert_array_equal(saved["x_train"][..., 0], x_train[chosen])
        np.testing.assert_array_equal(saved["y_train"], chosen % 10)
    all_of_them = study(dataset="fashion-mnist", data=folder, out=tmp_path, limit=80)
    check(data.prepare(all_of_them, no_track))


def test_training_and_validation_images_are_limited_apart(tmp_path):
    folder = write(tmp_path / "images")
    fewer, both = (
        data.prepare(study(dataset="fashion-mnist", data=folder, out=tmp_path, **o), no_track)
        for o in ({"train_limit": 20}, {"train_limit": 20, "validation_limit": 10})
    )
    assert (fewer.train, fewer.val, both.train, both.val) == (20, 20, 20, 10)
    assert fewer.digest != both.digest
    with np.load(fewer.path) as of_fewer, np.load(both.path) as of_both:
        assert np.bincount(of_fewer["y_train"]).tolist() == [2] * 10
        assert np.bincount(of_both["y_val"]).tolist() == [1] * 10
        np.testing.assert_array_equal(of_both["x_train"], of_fewer["x_train"])
        np.testing.assert_array_equal(of_fewer["y_val"], generated()[3])


def test_digits_of_an_earlier_version_are_found(tmp_path):
    """Their name is that of before `limit` came."""
    dataset = data.prepare(study(out=tmp_path), no_track)
    assert dataset.digest == "64b22a5fc3aa"


def test_held_out_images_are_training_images(tmp_path):
    dataset = data.prepare(study(out=tmp_path), no_track)
    held = data.hold_out(dataset)
    assert (held.train, held.val) == (718, 180) and held.val / dataset.train == pytest.approx(
        HELD_OUT, abs=1e-3
    )
    with np.load(dataset.path) as before, np.load(held.path) as after:
        images = sorted(map(bytes, [*after["x_train"], *after["x_val"]]))
        assert images == sorted(map(bytes, before["x_train"]))
        assert np.ptp(np.bincount(after["y_val"])) <= 1
    assert data.hold_out(dataset) == held and held.digest != dataset.digest
