"""Segmentation in a study, on generated shapes."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tfgn_cli
from PIL import Image, ImageDraw
from study_runs import fake_result, no_track, run_config, study
from tfgn_study import mistakes
from tfgn_study.data import dataset as data
from tfgn_study.data import sources
from tfgn_study.errors import StudyError
from tfgn_study.mistakes import OVERLAPS
from tfgn_study.norms import NORMS
from tfgn_study.options import IGNORED
from tfgn_study.report import report, uncertainty, verdict
from tfgn_study.train import images, network, objectives, worker


def shapes(folder, count=20, side=16):
    """Writes images of bright disks and dark squares on noise; returns the options for them."""
    rng = np.random.default_rng(0)
    of_images, of_masks = folder / "images", folder / "masks"
    of_images.mkdir(parents=True)
    of_masks.mkdir()
    for number in range(count):
        image = Image.fromarray(rng.integers(96, 160, (side, side, 3), np.uint8))
        mask = Image.new("L", (side, side))
        for label, color, draw in ((1, 250, "ellipse"), (2, 5, "rectangle")):
            x, y = rng.integers(0, side - 6, 2).tolist()
            for target, value in ((image, (color,) * 3), (mask, label)):
                getattr(ImageDraw.Draw(target), draw)((x, y, x + 5, y + 5), fill=value)
        mask.putpixel((0, 0), IGNORED)
        image.save(of_images / f"{number:02}.png")
        mask.save(of_masks / f"{number:02}.png")
    return {"task": "segmentation", "data": of_images, "masks": of_masks, "image_size": side}


@pytest.fixture
def options(tmp_path):
    return shapes(tmp_path) | {"out": tmp_path}


def prepared(options, **more):
    return data.prepare(study(**options | more), no_track)


# Images and masks.


def test_masks_are_read_with_their_images(options):
    dataset = prepared(options)
    assert (dataset.classes, dataset.train, dataset.val) == (3, 16, 4)
    with np.load(dataset.path) as saved:
        x, y = saved["x_train"], saved["y_train"]
    assert (x.shape, y.shape, y.dtype) == ((16, 16, 16, 3), (16, 16, 16), np.uint8)
    assert (y[:, 0, 0] == IGNORED).all()
    # In a corner pixel there may be a shape below the ignored pixel.
    y[:, 0, 0] = 0
    x = x[..., 0]
    x[:, 0, 0] = 100
    np.testing.assert_array_equal(x > 200, y == 1)
    np.testing.assert_array_equal(x < 50, y == 2)


def test_image_and_mask_are_cut_alike(options):
    wide = Image.new("RGB", (40, 20))
    wide.paste((250, 250, 250), (10, 0, 20, 20))
    mask = Image.new("P", (40, 20))
    mask.putpalette([9, 9, 9, 90, 90, 90])
    mask.paste(1, (10, 0, 20, 20))
    for path in [*options["data"].iterdir(), *options["masks"].iterdir()]:
        path.unlink()
    for name in ("a", "b", "c", "d"):
        wide.save(options["data"] / f"{name}.png")
        mask.save(options["masks"] / f"{name}.png")
    dataset = prepared(options, image_size=8, validation_split=0.5)
    with np.load(dataset.path) as saved:
        expected = np.repeat([[1] * 4 + [0] * 4], 8, axis=0)
        np.testing.assert_array_equal(saved["y_val"][0], expected)
        np.testing.assert_array_equal(saved["x_val"][0, ..., 0] > 128, expected)


def test_masks_of_one_bit_have_two_classes(options):
    for path in options["masks"].iterdir():
        array = np.asarray(Image.open(path))
        Image.fromarray(array == 1).save(path)
    assert prepared(options).classes == 2


def test_parts_and_held_out_images_keep_their_masks(options):
    dataset = prepared(options, train_limit=10, validation_limit=2)
    held = data.hold_out(dataset)
    assert (dataset.train, dataset.val, held.train, held.val) == (10, 2, 8, 2)
    with np.load(held.path) as saved:
        assert saved["y_train"].shape == (8, 16, 16)


def remove(folder):
    (folder / "03.png").unlink()


def shrink(folder):
    path = folder / "03.png"
    Image.open(path).resize((8, 16)).save(path)


def color(folder):
    path = folder / "03.png"
    Image.open(path).convert("RGB").save(path)


def cut(folder):
    path = folder / "03.png"
    path.write_bytes(path.read_bytes()[:50])


def set_to(old, new):
    def change(folder):
        for path in folder.iterdir():
            mask = np.asarray(Image.open(path)).copy()
            mask[mask == old] = new
            Image.fromarray(mask).save(path)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (remove, "images/03.png has no mask "),
        (shrink, "masks/03.png is of 8x16 pixels, its image of 16x16"),
        (color, "masks/03.png is of the mode 'RGB'"),
        (cut, "masks/03.png cannot be read as an image"),
        (set_to(1, 7), "--masks must have classes from 0 on without a gap; "),
        (set_to(1, 7), "have pixels of 7 and none of 1"),
        (lambda folder: [set_to(v, 255)(folder) for v in (1, 2)], "--masks must have at least 2"),
    ],
)
def test_broken_masks_are_one_sentence(options, change, sentence):
    change(options["masks"])
    with pytest.raises(StudyError) as error:
        prepared(options)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--task", "segmentation"], "--data must be given with --task=segmentation"),
        (
            ["--task", "segmentation", "--data", "."],
            "--masks must be given with --task=segmentation",
        ),
        (["--masks", "."], "--masks must be left out unless --task=segmentation"),
        (["--dataset", "masks"], "--dataset must be masks or left out with --task"),
        (["--model", "unet"], "--model must be among resnet8, "),
    ],
)
def test_bad_options_are_one_sentence(capsys, tmp_path, monkeypatch, argv, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        tfgn_cli.main(["study", *argv])
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and sentence in error


def test_segmentation_refuses_what_the_u_net_cannot_do(options):
    for change, sentence in (
        ({"models": ("resnet8",)}, "--model must be among unet for segmentation"),
        ({"image_size": 18}, "--image-size must be a multiple of 4 pixels for unet; received 18"),
        ({"dataset": "digits"}, "--dataset must be masks or left out"),
        ({"save_memory": True}, "--save-memory must be no with --task=segmentation"),
        ({"masks": options["masks"] / "none"}, "--masks must be a folder of images; there is no"),
    ):
        with pytest.raises(StudyError, match=sentence):
            prepared(options, **change)


# Training.


@pytest.mark.slow
@pytest.mark.parametrize(
    "norm",
    [
        norm if norm in ("gn+ws", "nf") else pytest.param(norm, marks=pytest.mark.thorough)
        for norm in NORMS
    ],
)
def test_u_net_has_logits_for_each_pixel(norm):
    run = next(iter(study(norms=(norm,)).runs("", "")))
    model = network.build(run_config(model="unet", norm=norm, groups=run.groups), (16, 16, 3), 3)
    assert model.output_shape == (None, 16, 16, 3)
    assert np.isfinite(model(np.zeros((2, 16, 16, 3)))).all()


@pytest.mark.slow
def test_masks_are_augmented_as_their_images():
    x = np.random.default_rng(0).integers(0, 200, (8, 8, 8, 1), np.uint8)
    run = run_config(augment=True, batch_size=8)
    moved, masks = next(iter(images.training_set(x, x[..., 0], run).as_numpy_iterator()))
    np.testing.assert_array_equal(moved[..., 0], masks)
    assert not np.array_equal(np.sort(moved, axis=0), np.sort(x, axis=0))


@pytest.mark.slow
def test_pixels_without_a_class_do_not_count():
    run = run_config(model="unet")
    labels = np.array([[[0, 1], [1, IGNORED]]], np.uint8)
    logits = np.random.default_rng(0).normal(size=(1, 2, 2, 2)).astype(np.float32)
    other = logits.copy()
    other[0, 1, 1] += [5, -5]
    loss, score = objectives.loss(run), objectives.score(run, 2)
    assert float(loss(labels, logits)) == float(loss(labels, other))
    expected = tf.nn.log_softmax(logits).numpy()
    mean = -np.mean([expected[0, 0, 0, 0], expected[0, 0, 1, 1], expected[0, 1, 0, 1]])
    assert float(loss(labels, logits)) == pytest.approx(mean, rel=1e-6)
    overlaps, same = (OVERLAPS.of(labels, x) for x in (logits, other))
    np.testing.assert_array_equal(overlaps, same)
    score.update_state(labels, logits)
    error = OVERLAPS.error(overlaps.reshape(-1), 1)
    assert 1 - float(score.result()) == pytest.approx(float(error))


@pytest.mark.slow
def test_u_net_learns_and_reports_its_overlaps(options):
    dataset = prepared(options)
    run = run_config(model="unet", norm="gn+ws", epochs=12, batch_size=2, learning_rate=0.5)
    result = worker.train(run, dataset.path, lambda message: None)
    assert result["error"] < 0.5 * result["history"]["val_error"][0]
    errors = [
        OVERLAPS.error(OVERLAPS.decode(text, dataset.val).sum(0), dataset.val)
        for text in result["overlaps"]
    ]
    assert errors == pytest.approx(result["history"]["val_error"][-5:])
    json.dumps(result, allow_nan=False)


@pytest.mark.thorough
def test_precise_statistics_of_a_u_net(options):
    dataset = prepared(options)
    run = run_config(model="unet", norm="bn+precise", epochs=1, groups=None)
    running = worker.train(run, dataset.path, lambda message: None)["running_statistics"]
    assert len(running["overlaps"]) == 1


# Errors and their intervals.


def test_error_is_that_of_keras_mean_iou():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (5, 8, 8)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = IGNORED
    logits = rng.normal(size=(5, 8, 8, 4))  # The last class is in no mask.
    logits[..., 3] = -9
    found = OVERLAPS.of(labels, logits)
    assert found.shape == (5, 4, 2)
    text = OVERLAPS.encode(found)
    columns = OVERLAPS.decode(text, 5)
    np.testing.assert_array_equal(columns.reshape(found.shape), found)
    metric = keras.metrics.MeanIoU(4, ignore_class=IGNORED, sparse_y_pred=False)
    metric.update_state(labels, logits)
    assert OVERLAPS.error(columns.sum(0), 5) == pytest.approx(1 - float(metric.result()))


def test_resampled_errors_are_those_of_the_drawn_images(monkeypatch):
    """Of two images, a resample has the first or the second alone, or both."""
    monkeypatch.setattr(uncertainty, "RESAMPLES", 50)
    found = np.array([[[4, 8], [2, 4]], [[9, 9], [0, 3]]], np.int32)
    run = {"history": {"val_error": [0.5]}, "overlaps": [OVERLAPS.encode(found)]}
    (errors,) = uncertainty.resampled_errors([run], 2)
    assert errors.shape == (50,)
    expected = {1 - 0.5, 1 - 0.5 * (13 / 17 + 2 / 7), 1 - 0.5 * (1 + 0)}
    assert {round(float(e), 5) for e in errors} == {round(e, 5) for e in expected}


def test_report_says_what_the_error_is(options):
    planned = study(**options, norms=("bn", "gn"), batch_sizes=(1, 4), seeds=(0, 1, 2))
    rng = np.random.default_rng(0)
    results = []
    for run in planned.runs("", ""):
        union = np.full((20, 3), 100)
        part = 90 if run.norm == "gn" and run.batch_size == 1 else 70
        found = np.stack([part + rng.integers(-3, 4, union.shape), union], axis=-1)
        error = float(OVERLAPS.error(found.reshape(20, -1).sum(0), 20))
        history = {k: [error] for k in ("loss", "train_error", "val_loss", "val_error")}
        changes = {"history": history, "overlaps": [OVERLAPS.encode(found)]}
        results.append({"config": run.as_dict(), **fake_result(error, **changes)})
    dataset = data.Dataset("shapes", options["out"] / "data.npz", "digest", 3, 80, 20)
    summary = report.summarize(planned, dataset, {}, results)
    (_, clear), (_, unclear) = verdict.sentences(summary)
    assert re.fullmatch(r"GN \(.*%\) has a lower error than BN \(.*%\), beyond chance\.", clear)
    assert unclear.startswith("no clear difference")
    text = report.markdown(summary)
    assert "The error is 1 minus the mean intersection over union (IoU) of the classes." in text
    assert "Pixels of the value 255 do not count." in text
    assert mistakes.of_run(results[0]) is OVERLAPS


def test_sources_share_out_masks_at_random():
    labels = np.zeros((10, 4, 4), np.uint8)
    train, val = sources.split(labels, 0.2)
    assert (len(train), len(val)) == (8, 2) and not set(train) & set(val)
