"""`tfgn study`: whole studies, what is trained again, bad input, the images."""

import json
import os
import signal
import subprocess
import sys
import time

import environments
import numpy as np
import pytest
import tfgn_cli
from PIL import Image
from study_runs import fake_result, no_track, study, two_classes
from tfgn_study.data import dataset as data
from tfgn_study.train import pool

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images[old]")
    return two_classes(root, 12, (10, 14), (0, 128), (128, 256), ("jpg", "png"))


def small(folder, out, *options):
    defaults = ["--norms", "bn,gn+ws", "--batch-sizes", "4", "2", "--epochs", "1"]
    size = ["--image-size", "8", "--validation-split", "0.25"]
    return ["study", "--data", str(folder), "--out", str(out), *defaults, *size, *options]


@pytest.fixture
def trained(monkeypatch):
    """Replaces the training; the list holds the configurations that would have been trained."""
    configs = []

    def fake_train(run_configs, path, folder, workers, arguments):
        for run_config in run_configs:
            configs.append(run_config)
            yield run_config, {"steps": 1, "epoch": 1, "error": 0.25}
            yield run_config, {"result": fake_result()}

    monkeypatch.setattr(pool, "train", fake_train)
    return configs


# The whole study, trained in processes of its own.


@pytest.mark.slow
def test_study_trains_reports_and_is_not_trained_again(folder, tmp_path, capfd, monkeypatch):
    assert tfgn_cli.main(small(folder, tmp_path, "--workers", "2")) == 0
    answer = json.loads((tmp_path / "results.json").read_text())
    cells = {(cell["norm"], cell["batch_size"]): cell for cell in answer["cells"]}
    assert cells.keys() == {("bn", 2), ("bn", 4), ("gn+ws", 2), ("gn+ws", 4)}
    for cell in cells.values():
        assert 0 <= cell["error"] <= 1 and cell["step_ms"] > 0
        # TensorFlow alone holds more than 200 MiB; a network of 78,000 parameters adds some.
        assert cell["peak_mib"] > 200 and 0 < cell["increase_mib"] < cell["peak_mib"]
    assert {run["workers"] for run in answer["runs"]} == {2}
    assert {len(run["history"]["val_error"]) for run in answer["runs"]} == {1}
    for name in ("error_vs_batch.png", "curves.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG" and min(image.size) > 400
    assert "| gn+ws |" in (tmp_path / "report.md").read_text()
    assert not list(tmp_path.glob("runs/*.log"))
    output = "".join(capfd.readouterr().out.split())
    assert "Validationerrorin%" in output and "images[old]" in output

    monkeypatch.setattr(subprocess, "Popen", None)
    assert tfgn_cli.main(small(folder, tmp_path, "--workers", "2")) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == answer
    output = capfd.readouterr().out
    assert "4 done before" in output and "replaced" not in output

    (next(path for path in folder.iterdir() if path.is_dir()) / "notes.txt").write_text("")
    assert tfgn_cli.main(small(folder, tmp_path, "--workers", "2", "--norms", "bn")) == 0
    output = capfd.readouterr().out
    assert "The class folders have 1 file that is no image, which is not used." in output
    assert f"The report in {tmp_path} is of other options and will be replaced." in output


@pytest.mark.slow
def test_ctrl_c_loses_only_the_current_runs(folder, tmp_path, capfd):
    argv = small(folder, tmp_path, "--norms", "none", "--batch-sizes", "4,1", "--epochs", "100")
    argv += ["--workers", "2"]
    command = subprocess.Popen(
        [sys.executable, "-m", "tfgn_cli", *argv],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/none-batch4-*.json")):
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    workers = environments.processes(command.pid)[1:]
    os.kill(command.pid, signal.SIGINT)
    message = command.communicate(timeout=60)[1].splitlines()[-1]
    assert command.returncode == 130
    assert message.startswith("tfgn: interrupted: 1 of 2 runs are kept in ")
    assert not list(tmp_path.glob("runs/none-batch1-*.json"))
    assert workers and not environments.alive(workers)


def test_failed_training_ends_the_study_and_keeps_its_output(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert tfgn_cli.main(small(folder, tmp_path)) == 1
    message = capsys.readouterr().err
    assert "bn-batch4-seed0-" in message and "exit code 1" in message and ".log" in message
    assert len(list(tmp_path.glob("runs/*.log"))) == 1


# What is trained again, and what is not.


def test_options_of_gn_train_only_gn_again(folder, tmp_path, trained):
    assert tfgn_cli.main(small(folder, tmp_path)) == 0
    assert [(run.norm, run.batch_size) for run in trained] == [
        ("bn", 4),
        ("gn+ws", 4),
        ("bn", 2),
        ("gn+ws", 2),
    ]
    trained.clear()
    assert tfgn_cli.main(small(folder, tmp_path, "--groups", "4")) == 0
    assert [(run.norm, run.groups) for run in trained] == [("gn+ws", 4)] * 2
    trained.clear()
    assert tfgn_cli.main(small(folder, tmp_path, "--group-size", "4")) == 0
    assert [(run.norm, run.groups, run.group_size) for run in trained] == [("gn+ws", None, 4)] * 2
    trained.clear()
    assert tfgn_cli.main(small(folder, tmp_path, "--groups", "4")) == 0
    assert not trained


def test_number_of_workers_trains_nothing_again(folder, tmp_path, trained):
    assert tfgn_cli.main(small(folder, tmp_path)) == 0
    trained.clear()
    assert tfgn_cli.main(small(folder, tmp_path, "--workers", "3")) == 0
    assert not trained


@pytest.mark.parametrize(
    "options",
    [
        ["--epochs", "2"],
        ["--seeds", "1"],
        ["--learning-rate", "0.2"],
        ["--model", "resnet14"],
        ["--image-size", "9"],
        ["--validation-split", "0.5"],
    ],
)
def test_other_options_train_everything_again(folder, tmp_path, trained, options):
    assert tfgn_cli.main(small(folder, tmp_path)) == 0
    assert tfgn_cli.main(small(folder, tmp_path, *options)) == 0
    assert len(trained) == 8 and len({run.name for run in trained}) == 8


def test_changed_image_trains_everything_again(tmp_path, trained):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("L", (8, 8), i).save(tmp_path / name / f"{i}.png")
    out = tmp_path / ".out"
    assert tfgn_cli.main(small(tmp_path, out)) == 0
    Image.new("L", (9, 9), 200).save(tmp_path / "a" / "0.png")
    assert tfgn_cli.main(small(tmp_path, out)) == 0
    assert len(trained) == 8


@pytest.mark.parametrize("content", ['{"config": ', "[]", "{}", '{"config": {}}'])
def test_file_that_is_no_result_is_trained_again(folder, tmp_path, trained, content):
    tfgn_cli.main(small(folder, tmp_path))
    broken = next(tmp_path.glob("runs/bn-batch2-*.json"))
    broken.write_text(content)
    trained.clear()
    assert tfgn_cli.main(small(folder, tmp_path)) == 0
    assert [(run.norm, run.batch_size) for run in trained] == [("bn", 2)]
    assert json.loads(broken.read_text())["error"] == 0.25


# Bad input.


def bad_folders(tmp_path):
    one = tmp_path / "one"
    few = tmp_path / "few"
    broken = tmp_path / "broken"
    text = tmp_path / "text"
    (tmp_path / "empty").mkdir()
    (few / "b").mkdir(parents=True)
    for path in (one / "a", few / "a", broken / "a", broken / "b", text / "a", text / "b"):
        path.mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8)).save(path / f"{i}.png")
    whole = broken / "b" / "1.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(whole)
    whole.write_bytes(whole.read_bytes()[:1000])
    (text / "b" / "2.jpg").write_text("no image")
    (tmp_path / "file").write_text("")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "missing"], "--data must be a folder of class folders; there is no folder"),
        (["--data", "file"], "there is no folder"),
        (["--data", "empty"], "at least 2 class folders"),
        (["--data", "one"], "at least 2 class folders"),
        (["--data", "few"], "each class folder must hold at least 2 images"),
        (["--data", "broken"], "1.png cannot be read as an image"),
        (["--data", "text"], "2.jpg cannot be read as an image"),
        (["--out", "file/out"], "--out must be a folder that can be written to"),
        (
            ["--norms", "bn,xx"],
            "ws, nf, none, or as in gn:groups=4 or gn:size=4; received 'xx'",
        ),
        (["--norms", ","], "--norms must not be empty"),
        (["--model", "vgg"], "--model must be among resnet8, resnet14"),
        (["--groups", "5"], "--groups must be a divisor of the 16, 32, 64 channels of resnet8"),
        (["--groups", "0"], "--groups must be a divisor"),
        (["--group-size", "64"], "--group-size must be a divisor of the 16, 32, 64 channels"),
        (["--groups", "4", "--group-size", "4"], "not allowed with"),
        (["--batch-sizes", "0"], "--batch-sizes must be at least 1; received 0"),
        (["--batch-sizes", "1,many"], "--batch-sizes must be whole numbers; received 'many'"),
        (["--batch-sizes", "4,19"], "--batch-sizes must be at most the 18 training images"),
        (["--workers", "0"], "--workers must be at least 1; received 0"),
        (["--seeds", "-1"], "--seeds must be between 0 and"),
        (["--epochs", "0"], "--epochs must be at least 1; received 0"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--learning-rate", "nan"], "--learning-rate must be a finite number above 0"),
        (["--learning-rate", "0"], "--learning-rate must be a finite number above 0; received 0.0"),
        (["--image-size", "3"], "--image-size must be at least 4 pixels; received 3"),
        (["--validation-split", "1"], "--validation-split must be between 0 and 1; received 1.0"),
        (["--validation-split", "0.01"], "leaves classes without an image"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    folder, tmp_path, trained, capsys, monkeypatch, options, sentence
):
    bad_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(small(folder, tmp_path / "out", *options))
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("tfgn study: error: ") and error.count("\n") == 1
    assert sentence in error
    assert not trained
    out = tmp_path / "out"
    assert not out.exists() or [path.suffix for path in out.iterdir()] == [".npz"]


# The images.


def test_digits_are_the_default(tmp_path):
    dataset = data.prepare(study(out=tmp_path), no_track)
    assert (dataset.classes, dataset.train, dataset.val) == (10, 898, 899)
    with np.load(dataset.path) as saved:
        assert saved["x_train"].shape == (898, 8, 8, 1) and saved["x_val"].shape == (899, 8, 8, 1)
        assert saved["x_train"].dtype == np.uint8 and saved["x_train"].max() == 255
        # Every class on both sides, in nearly the same numbers.
        assert np.abs(np.bincount(saved["y_train"]) - np.bincount(saved["y_val"])).max() <= 1


def test_folder_is_read_cropped_and_split(folder, tmp_path):
    planned = study(data=folder, image_size=8, out=tmp_path)
    with np.load(data.prepare(planned, no_track).path) as saved:
        x, y = saved["x_train"], saved["y_train"]
        assert x.shape == (19, 8, 8, 3) and saved["x_val"].shape == (5, 8, 8, 3)
    # Class folders are numbered by name: "bright" is 0.
    assert x[y == 0].mean() > 150 and x[y == 1].mean() < 100
