"""The scripts of examples/, run as their readers would, on little data."""

import argparse
import gzip
import json
import math
import os
import re
import runpy
import signal
import struct
import subprocess
import sys

import bit_checkpoints
import dp_accounting
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from paths import EXAMPLES

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

ARGUMENTS = {
    "convert_model.py": ["--application", "MobileNet", "--epochs", "3", "--out", "model.keras"],
    "dp_sgd.py": [
        *("--data", ".", "--epochs", "2", "--batch-size", "16", "--learning-rate", "0.1"),
        *("--epsilon", "5", "--compare"),
    ],
    "diffusion_unet.py": ["--epochs", "2", "--batch-size", "16", "--save-memory"],
    "segmentation_2d.py": [
        *("--epochs", "4", "--size", "32", "--width", "8", "--save-memory"),
        *("--images", "images", "--masks", "masks", "--batch-size", "1"),
    ],
    "segmentation_3d.py": ["--epochs", "3", "--size", "16", "--width", "8", "--save-memory"],
    "finetune_bit.py": [
        *("bit.npz", "--image-size", "32", "--epochs", "2"),
        *("--learning-rate", "5e-4", "--out", "model.keras"),
    ],
}


@pytest.fixture(scope="module")
def checkpoint():
    return bit_checkpoints.bit_arrays()


def write_idx_files(folder):
    """Writes bars, wider by class, in the files of Fashion-MNIST."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 64), ("t10k", 32)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        columns = np.arange(28) < 2 * labels[:, None] + 4
        images = np.broadcast_to(255 * columns[:, None, :], (count, 28, 28)).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
            with gzip.open(folder / f"{part}-{name}-ubyte.gz", "wb") as file:
                file.write(header + array.tobytes())


def write_images_and_masks(folder, count=30, size=40):
    """Writes bright discs on a dark ground, and their masks, as 0 and 255."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    rows, columns = np.mgrid[:size, :size]
    for i in range(count):
        center, radius = rng.uniform(12, size - 12, 2), rng.uniform(5, 10)
        disc = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < radius**2
        pixels = 60 + 120 * disc + 10 * rng.normal(size=disc.shape)
        image = np.repeat(pixels[..., None].clip(0, 255).astype("uint8"), 3, axis=-1)
        encoded = tf.io.encode_jpeg(image).numpy()
        (folder / "images" / f"{i}.jpg").write_bytes(encoded)
        mask = tf.io.encode_png(255 * disc[..., None].astype("uint8")).numpy()
        (folder / "masks" / f"{i}.png").write_bytes(mask)


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory):
    """The folder of an example that has run, and the JSON that it printed last.

    All are started at once, as most of the time of each goes into imports and tracing, on one core.
    """
    folders = {script: tmp_path_factory.mktemp(script[:-3]) for script in ARGUMENTS}
    np.savez(folders["finetune_bit.py"] / "bit.npz", **checkpoint)
    write_idx_files(folders["dp_sgd.py"])
    write_images_and_masks(folders["segmentation_2d.py"])
    running = {}
    for script, folder in folders.items():
        with open(folder / "stdout", "w") as out, open(folder / "stderr", "w") as err:
            command = [sys.executable, EXAMPLES / script, *ARGUMENTS[script]]
            running[script] = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err)

    def wait(script):
        assert running[script].wait(300) == 0, (folders[script] / "stderr").read_text()[-4000:]
        lines = (folders[script] / "stdout").read_text().splitlines()
        return folders[script], json.loads(lines[-1])

    yield wait
    for process in running.values():
        process.kill()
        process.wait()


def test_conversion_by_one_call_and_by_hand(finished):
    folder, results = finished("convert_model.py")
    assert results["difference"] < 1e-5
    assert results["fine_tuned"] > 0.9 and results["converted"] < results["fine_tuned"]
    layers = keras.saving.load_model(folder / "model.keras").layers
    assert sum(isinstance(layer, tfgn.layers.GroupNormalization) for layer in layers) == 27
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers)


def test_diffusion_learns_to_predict_the_noise(finished):
    folder, results = finished("diffusion_unet.py")
    assert "9 paired, 0 not paired" in (folder / "stdout").read_text()
    # 1 is what predicting no noise has; the more noise there is, the easier it is to predict.
    assert max(results["errors"]) < 0.5
    assert results["errors"][0] > 1.5 * results["errors"][-1]
    samples = tf.io.decode_png((folder / "samples.png").read_bytes())
    assert samples.shape == (16, 8 * 16, 1) and len(np.unique(samples)) > 2


def test_differentially_private_training(finished):
    _, results = finished("dp_sgd.py")
    assert 4.9 < results["epsilon"] <= 5 and 1 < results["noise_multiplier"] < 1.1
    assert set(results["milliseconds"]) == {"vectorized", "loop"}
    assert 0 <= results["accuracy"] <= 1


def test_private_gradients_are_the_clipped_ones_of_each_image():
    example = runpy.run_path(os.fspath(EXAMPLES / "dp_sgd.py"))
    gradients = [tf.constant([[3.0, 4.0], [0.3, 0.4]]), tf.constant([[12.0], [0.0]])]
    first, second = example["clipped_sum"](gradients, clip_norm=1.3)
    # The norms are 13 and 0.5.
    np.testing.assert_allclose(first, [0.3 + 0.3, 0.4 + 0.4], rtol=1e-6)
    np.testing.assert_allclose(second, [1.2], rtol=1e-6)


def test_segmentation_of_volumes_at_batch_1(finished):
    folder, results = finished("segmentation_3d.py")
    printed = (folder / "stdout").read_text()
    assert "3 paired, 4 not paired" in printed and "Epoch 2/3" in printed
    for tissue, before in results["before"].items():
        assert results["after"][tissue] > before + 0.1
    assert results["after"]["1"] > 0.8


def test_segmentation_of_the_users_images(finished):
    folder, results = finished("segmentation_2d.py")
    assert "Dice in 6 images that were not trained on" in (folder / "stdout").read_text()
    # The values in the masks are 0, the background, and 255.
    assert list(results["after"]) == ["255"]
    assert results["after"]["255"] > 0.8


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda folder: (folder / "masks" / "7.png").unlink(), None),
        (lambda folder: [path.unlink() for path in (folder / "masks").glob("1*")], None),
        (
            lambda folder: [path.unlink() for path in (folder / "masks").glob("[1-9]*.png")],
            "images have a mask of the same name",
        ),
        (lambda folder: (folder / "images" / "7.jpg").write_text("no"), "7.jpg is not an image"),
        (
            lambda folder: (folder / "masks" / "7.png").write_bytes(
                tf.io.encode_png(np.zeros([40, 40, 3], "uint8")).numpy()
            ),
            "7.png has 3 channels; a mask has one",
        ),
        (
            lambda folder: (folder / "masks" / "7.png").write_bytes(
                tf.io.encode_png(np.zeros([20, 20, 1], "uint8")).numpy()
            ),
            "differ in size",
        ),
    ],
)
def test_what_is_wrong_with_images_and_masks(write, sentence, tmp_path):
    read = runpy.run_path(os.fspath(EXAMPLES / "segmentation_2d.py"))["read"]
    write_images_and_masks(tmp_path, count=12)
    write(tmp_path)
    if sentence is None:
        images, classes, values = read(tmp_path / "images", tmp_path / "masks", 16)
        assert len(images) == len(classes) < 12 and values == [0, 255]
        assert images.min() >= -1 and images.max() <= 1
    else:
        with pytest.raises(ValueError, match=sentence):
            read(tmp_path / "images", tmp_path / "masks", 16)


def test_volumes_in_a_folder(tmp_path):
    example = runpy.run_path(os.fspath(EXAMPLES / "segmentation_3d.py"))
    rng = np.random.default_rng(0)
    for i in range(6):
        classes = rng.integers(0, 4, [8, 12, 4]).astype(np.uint8)
        np.savez(tmp_path / f"{i}.npz", volume=rng.normal(5, 3, [8, 12, 4, 2]), classes=classes)
    args = argparse.Namespace(data=tmp_path)
    held_out, draw, classes = example["volumes_of"](args, rng)
    assert len(held_out) == 2 and classes == 4
    batch, one_hot = next(example["endless"](draw, classes))
    assert batch.shape == (1, 8, 12, 4, 2) and one_hot.shape == (1, 8, 12, 4, 4)
    assert abs(batch.mean()) < 1e-5 and abs(batch.std() - 1) < 1e-5
    np.savez(tmp_path / "6.npz", volume=np.zeros([8, 12, 5]), classes=np.zeros([8, 12, 5], int))
    with pytest.raises(ValueError, match="6.npz: sizes must be multiples of 4"):
        example["volumes_of"](args, rng)
    np.savez(tmp_path / "6.npz", image=np.zeros([8, 12, 4]))
    with pytest.raises(ValueError, match="6.npz is no .npz file with `volume` and `classes`"):
        example["volumes_of"](args, rng)


def test_fine_tuning_a_checkpoint(finished, checkpoint):
    folder, results = finished("finetune_bit.py")
    assert results["val_loss"][-1] < 0.95 * math.log(3)
    # The weights are the checkpoint's, a few steps later, and the head is a new one.
    model = keras.saving.load_model(folder / "model.keras")
    old = checkpoint["resnet/block4/unit03/c/standardized_conv2d/kernel"]
    moved = np.abs(np.array(model.get_layer("block4_unit03_c_conv").kernel) - old)
    assert 0 < moved.max() < 0.1 * np.std(old)
    assert model.output_shape == (None, 3)


def start(script, monkeypatch, *arguments):
    """Runs a script in this process, as `python script` does; returns its exit code."""
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(os.fspath(EXAMPLES / script), run_name="__main__")
    return stopped.value.code or 0


@pytest.mark.parametrize("script", ARGUMENTS)
def test_help(script, monkeypatch, capsys):
    assert start(script, monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert "epsilon" in text and "--epochs" in text


@pytest.mark.parametrize("script", ARGUMENTS)
def test_bad_argument(script, monkeypatch, capsys):
    assert start(script, monkeypatch, "--epochs", "0") == 2
    assert "--epochs must be 1 or more; received 0" in capsys.readouterr().err


@pytest.mark.parametrize("script", ARGUMENTS)
def test_interrupt(script, monkeypatch, capsys, tmp_path, checkpoint):
    def interrupted(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(keras.Model, "fit", interrupted)
    monkeypatch.setattr(dp_accounting, "calibrate_dp_mechanism", interrupted)
    monkeypatch.setattr(tfgn.models, "load_bit_npz", lambda *args, **kwargs: None)
    arguments = ARGUMENTS[script]
    monkeypatch.chdir(tmp_path)
    write_idx_files(tmp_path)
    write_images_and_masks(tmp_path, count=5)
    np.savez("bit.npz")
    assert start(script, monkeypatch, *arguments) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_checkpoint_is_asked_for(monkeypatch, capsys):
    assert start("finetune_bit.py", monkeypatch) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert re.search("https://storage.googleapis.com/bit_models/.*BiT-M-R50x1.npz.*path", sentence)
    assert start("finetune_bit.py", monkeypatch, "missing.npz") == 2
    assert "there is no file missing.npz" in capsys.readouterr().err


def test_images_in_a_folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            value = 10 * i + (100 if name == "dog" else 0)
            pixels = tf.fill([20, 30, 3], tf.cast(value, tf.uint8))
            tf.io.write_file(str(tmp_path / name / f"{i}.png"), tf.io.encode_png(pixels))
    names = runpy.run_path(os.fspath(EXAMPLES / "finetune_bit.py"))
    training, validation, classes = names["images_in"](tmp_path, 16, seed=0)
    assert classes == 2 and len(list(training)) == 8 and len(list(validation)) == 2
    images, labels = next(iter(names["batches"](training, validation, 4)[0]))
    assert images.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(np.max(images, (1, 2, 3)) > 90 / 127.5 - 1, labels)
