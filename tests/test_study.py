import json
import os
import signal
import subprocess
import sys
import time

import environments
import keras
import numpy as np
import pytest
from PIL import Image
from tensorflow_groupnorm import cli, layers
from tensorflow_groupnorm.study import config, data, plots, pool, report, resnet, runner, worker


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 12 images that a mean tells apart."""
    root = tmp_path_factory.mktemp("images[old]")
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 128)):
        (root / name).mkdir()
        for i in range(12):
            pixels = rng.integers(low, low + 128, (10, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.{'png' if i % 2 else 'jpg'}")
    return root


def small(folder, out, *options):
    defaults = ["--norms", "bn,gn+ws", "--batch-sizes", "4", "2", "--epochs", "1"]
    size = ["--image-size", "8", "--validation-split", "0.25"]
    return ["study", "--data", str(folder), "--out", str(out), *defaults, *size, *options]


def fake_result(error=0.25, **changes):
    history = {key: [error] for key in ("loss", "train_error", "val_loss", "val_error")}
    result = {"history": history, "error": error, "diverged": False, "parameters": 1}
    result |= {"step_ms": 1.5, "seconds": 2.0, "baseline_mib": 100.0, "peak_mib": 130.0}
    return result | changes


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


def run_config(**changes):
    values = {"norm": "gn", "batch_size": 4, "seed": 0, "epochs": 1, "learning_rate": 0.1}
    values |= {"groups": 8, "group_size": None, "model": "resnet8", "data": "", "software": ""}
    return config.RunConfig(**(values | changes))


@pytest.fixture(scope="module")
def arrays(folder, tmp_path_factory):
    study = config.Study(data=folder, image_size=8, out=tmp_path_factory.mktemp("arrays"))
    return data.prepare(study, lambda files, text: files).path


# The whole study, trained in processes of its own.


def test_study_trains_reports_and_is_not_trained_again(folder, tmp_path, capfd, monkeypatch):
    assert cli.main(small(folder, tmp_path, "--workers", "2")) == 0
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
    assert cli.main(small(folder, tmp_path, "--workers", "2")) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == answer
    assert "4 done before" in " ".join(capfd.readouterr().out.split())


def test_ctrl_c_loses_only_the_current_runs(folder, tmp_path, capfd):
    argv = small(folder, tmp_path, "--norms", "none", "--batch-sizes", "4,1", "--epochs", "100")
    argv += ["--workers", "2"]
    command = subprocess.Popen(
        [sys.executable, "-m", "tensorflow_groupnorm.cli", *argv],
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
    assert cli.main(small(folder, tmp_path)) == 1
    message = capsys.readouterr().err
    assert "bn-batch4-seed0-" in message and "exit code 1" in message and ".log" in message
    assert len(list(tmp_path.glob("runs/*.log"))) == 1


# What is trained again, and what is not.


def test_options_of_gn_train_only_gn_again(folder, tmp_path, trained):
    assert cli.main(small(folder, tmp_path)) == 0
    assert [(run.norm, run.batch_size) for run in trained] == [
        ("bn", 4),
        ("gn+ws", 4),
        ("bn", 2),
        ("gn+ws", 2),
    ]
    trained.clear()
    assert cli.main(small(folder, tmp_path, "--groups", "4")) == 0
    assert [(run.norm, run.groups) for run in trained] == [("gn+ws", 4)] * 2
    trained.clear()
    assert cli.main(small(folder, tmp_path, "--group-size", "4")) == 0
    assert [(run.norm, run.groups, run.group_size) for run in trained] == [("gn+ws", None, 4)] * 2
    trained.clear()
    assert cli.main(small(folder, tmp_path, "--groups", "4")) == 0
    assert not trained


def test_number_of_workers_trains_nothing_again(folder, tmp_path, trained):
    assert cli.main(small(folder, tmp_path)) == 0
    trained.clear()
    assert cli.main(small(folder, tmp_path, "--workers", "3")) == 0
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
    assert cli.main(small(folder, tmp_path)) == 0
    assert cli.main(small(folder, tmp_path, *options)) == 0
    assert len(trained) == 8 and len({run.name for run in trained}) == 8


def test_changed_image_trains_everything_again(tmp_path, trained):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("L", (8, 8), i).save(tmp_path / name / f"{i}.png")
    out = tmp_path / ".out"
    assert cli.main(small(tmp_path, out)) == 0
    Image.new("L", (9, 9), 200).save(tmp_path / "a" / "0.png")
    assert cli.main(small(tmp_path, out)) == 0
    assert len(trained) == 8


@pytest.mark.parametrize("content", ['{"config": ', "[]", "{}", '{"config": {}}'])
def test_file_that_is_no_result_is_trained_again(folder, tmp_path, trained, content):
    cli.main(small(folder, tmp_path))
    broken = next(tmp_path.glob("runs/bn-batch2-*.json"))
    broken.write_text(content)
    trained.clear()
    assert cli.main(small(folder, tmp_path)) == 0
    assert [(run.norm, run.batch_size) for run in trained] == [("bn", 2)]
    assert json.loads(broken.read_text())["error"] == 0.25


def test_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt), runner.atomic(path) as file:
        file.write(b"half")
        file.flush()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


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
        (["--data", "missing"], "data must be a folder of class folders; there is no folder"),
        (["--data", "file"], "there is no folder"),
        (["--data", "empty"], "at least 2 class folders"),
        (["--data", "one"], "at least 2 class folders"),
        (["--data", "few"], "each class folder must hold at least 2 images"),
        (["--data", "broken"], "1.png cannot be read as an image"),
        (["--data", "text"], "2.jpg cannot be read as an image"),
        (["--out", "file/out"], "out must be a folder that can be written to"),
        (
            ["--norms", "bn,xx"],
            "norms must be among bn, ln, in, gn, ws, gn+ws, none, or as in gn:groups=4",
        ),
        (["--norms", ","], "norms must not be empty"),
        (["--model", "vgg"], "model must be among resnet8, resnet14"),
        (["--groups", "5"], "groups must be a divisor of the 16, 32, 64 channels of resnet8"),
        (["--groups", "0"], "groups must be a divisor"),
        (["--group-size", "64"], "group_size must be a divisor of the 16, 32, 64 channels"),
        (["--groups", "4", "--group-size", "4"], "not allowed with"),
        (["--batch-sizes", "0"], "batch_sizes must be at least 1; received 0"),
        (["--batch-sizes", "1,many"], "batch_sizes must be whole numbers; received 'many'"),
        (["--batch-sizes", "4,19"], "batch_sizes must be at most the 18 training images"),
        (["--workers", "0"], "workers must be at least 1; received 0"),
        (["--seeds", "-1"], "seeds must be between 0 and"),
        (["--epochs", "0"], "epochs must be at least 1; received 0"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--learning-rate", "nan"], "learning_rate must be a finite number above 0"),
        (["--learning-rate", "0"], "learning_rate must be a finite number above 0; received 0.0"),
        (["--image-size", "3"], "image_size must be at least 4 pixels; received 3"),
        (["--validation-split", "1"], "validation_split must be between 0 and 1; received 1.0"),
        (["--validation-split", "0.01"], "leaves classes without an image"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    folder, tmp_path, trained, capsys, monkeypatch, options, sentence
):
    bad_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        cli.main(small(folder, tmp_path / "out", *options))
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("tfgn study: error: ") and error.count("\n") == 1
    assert sentence in error
    assert not trained


# The images.


def test_digits_are_the_default(tmp_path):
    dataset = data.prepare(config.Study(out=tmp_path), lambda files, text: files)
    assert (dataset.classes, dataset.train, dataset.val) == (10, 898, 899)
    with np.load(dataset.path) as saved:
        assert saved["x_train"].shape == (898, 8, 8, 1) and saved["x_val"].shape == (899, 8, 8, 1)
        assert saved["x_train"].dtype == np.uint8 and saved["x_train"].max() == 255
        # Every class on both sides, in nearly the same numbers.
        assert np.abs(np.bincount(saved["y_train"]) - np.bincount(saved["y_val"])).max() <= 1


def test_folder_is_read_cropped_and_split(folder, arrays):
    with np.load(arrays) as saved:
        x, y = saved["x_train"], saved["y_train"]
        assert x.shape == (19, 8, 8, 3) and saved["x_val"].shape == (5, 8, 8, 3)
    # Class folders are numbered by name: "bright" is 0.
    assert x[y == 0].mean() > 150 and x[y == 1].mean() < 100


# One training.


def test_training_is_repeatable_and_depends_on_the_seed(arrays):
    def history(seed):
        return worker.train(run_config(seed=seed), arrays, messages.append)["history"]

    messages = []
    first = history(0)
    assert [message["epoch"] for message in messages if "epoch" in message] == [1]
    assert messages[-1]["steps"] == 19 // 4
    assert history(0) == first
    assert history(1) != first


def test_error_is_the_median_of_the_final_epochs(arrays):
    result = worker.train(run_config(norm="bn", epochs=7), arrays, lambda message: None)
    assert len(result["history"]["val_error"]) == 7
    assert result["error"] == np.median(result["history"]["val_error"][-5:])


def test_divergence_is_reported_and_is_valid_json(arrays, capfd):
    result = worker.train(
        run_config(norm="none", learning_rate=1e30, epochs=3), arrays, lambda message: None
    )
    assert result["diverged"] and len(result["history"]["loss"]) == 1
    assert result["history"]["loss"] == [None]
    json.dumps(result, allow_nan=False)


def test_learning_rate_is_scaled_with_the_batch():
    assert run_config(batch_size=32).peak_learning_rate == 0.1
    assert run_config(batch_size=1).peak_learning_rate == 0.1 / 32


# The network.


@pytest.mark.parametrize("norm", config.NORMS)
def test_network_has_the_layers_of_its_norm(norm):
    study = config.Study(norms=(norm,), batch_sizes=(4,))
    model = resnet.build(study.runs("", "")[0], (8, 8, 1), 10)
    assert model.output_shape == (None, 10)
    groups = {
        layer.gamma.shape[0]: layer.groups
        for layer in model.layers
        if isinstance(layer, layers.GroupNormalization)
    }
    expected = {"ln": {16: 1, 32: 1, 64: 1}, "in": {16: 16, 32: 32, 64: 64}}
    expected |= dict.fromkeys(("gn", "gn+ws"), {16: 8, 32: 8, 64: 8})
    assert groups == expected.get(norm, {})
    kinds = [type(layer) for layer in model.layers]
    assert (keras.layers.BatchNormalization in kinds) == (norm == "bn")
    assert kinds.count(layers.StandardizedConv2D) == (9 if "ws" in norm else 0)
    # A GroupNorm takes the addition and the ReLU with it.
    assert (keras.layers.Add in kinds) == (norm in ("bn", "ws", "none"))
    assert np.isfinite(model(np.zeros((2, 8, 8, 1)))).all()


def test_group_size_gives_channels_per_group():
    study = config.Study(norms=("gn",), groups=None, group_size=4)
    model = resnet.build(study.runs("", "")[0], (8, 8, 1), 10)
    norms = [x for x in model.layers if isinstance(x, layers.GroupNormalization)]
    assert {layer.gamma.shape[0] // layer.groups for layer in norms} == {4}


# The report.


def summary_of(errors, **changes):
    """Returns a summary with the errors given by (norm, batch size), a list over seeds."""
    study = config.Study(
        norms=tuple(dict.fromkeys(norm for norm, _ in errors)),
        batch_sizes=tuple(size for _, size in errors),
        seeds=tuple(range(max(map(len, errors.values())))),
    )
    dataset = data.Dataset("squares", study.out / "data.npz", "digest", 2, 100, 100)
    results = [
        {
            "config": run.as_dict(),
            **fake_result(errors[run.norm, run.batch_size][run.seed], **changes),
        }
        for run in study.runs("", "")
        if run.seed < len(errors.get((run.norm, run.batch_size), ()))
    ]
    return report.summarize(study, dataset, {"fused": True}, results)


ERRORS = {("bn", 1): [0.8, 0.9], ("bn", 64): [0.02], ("gn", 1): [0.03], ("gn", 64): [0.03]}


def test_report_has_means_spreads_and_the_best():
    text = report.markdown(summary_of(ERRORS))
    assert "| bn | 85.0 (80.0-90.0) | **2.0** |" in text
    assert "| gn | **3.0** | 3.0 |" in text
    assert "| bn | 1.5 | 1.5 |" in text
    assert "| bn | 130 (+30) | 130 (+30) |" in text
    # sqrt(0.03 * 0.97 / 100), of the median cell
    assert "An error of 3.0% on 100\nimages has a standard error of 1.7 points" in text
    assert "`gn`: group normalization" in text and "`ws`" not in text
    assert "at a time" not in text
    assert "Up to 3 runs trained at a time" in report.markdown(summary_of(ERRORS, workers=3))
    assert "diverged |" in report.markdown(summary_of(ERRORS, diverged=True))


def test_plot_is_in_the_manner_of_the_paper():
    (axes,) = plots.plot_error(summary_of(ERRORS)).axes
    left, right = axes.get_xlim()
    assert left > right and axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "64"]
    lines = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    assert list(lines["bn"].get_xdata()) == [1, 64]
    np.testing.assert_allclose(lines["bn"].get_ydata(orig=False), [85, 2])
    np.testing.assert_allclose(lines["gn"].get_ydata(orig=False), [3, 3])
    assert axes.get_yscale() == "log"
    bottom, top = axes.get_ylim()
    assert bottom < 2 and top >= 85


def test_plot_of_similar_or_no_errors_is_linear():
    for error in (0.02, 0.0):
        (axes,) = plots.plot_error(summary_of({("bn", 1): [0.03], ("bn", 2): [error]})).axes
        assert axes.get_yscale() == "linear"


def test_curves_have_a_panel_per_batch_size():
    errors = {("gn", size): [0.1] for size in (1, 2, 4, 8)}
    panels = plots.plot_curves(summary_of(errors)).axes
    assert [axes.get_title() for axes in panels if axes.get_visible()] == [
        f"batch {size}" for size in (8, 4, 2, 1)
    ]


def test_step_time_of_one_step_per_epoch_is_unknown():
    assert "| gn | - |" in report.markdown(summary_of({("gn", 64): [0.1]}, step_ms=None))
