"""Which runs a study trains: tuned learning rates, and two norms that share a training."""

import pytest
import tfgn_cli
from rich.console import Console
from study_runs import fake_result, run_config, study
from tfgn_study import trainings, tuning
from tfgn_study.data import dataset as data
from tfgn_study.options import TUNING_FACTORS
from tfgn_study.report import report
from tfgn_study.train import pool

RUNNING = {"error": 0.5, "seconds": 1.5, "history": {"val_loss": [0.7], "val_error": [0.5]}}


def error_of(run):
    """GN learns best at twice the given rate, all others at the rate itself."""
    best = 0.2 if run.norm == "gn" else 0.1
    return 0.1 + abs(run.learning_rate - best)


@pytest.fixture
def trained(monkeypatch):
    """Replaces the training; the list holds what would have been trained, and on which images."""
    runs = []

    def fake_train(configs, path, folder, workers, arguments):
        for run in configs:
            runs.append((run, path.name))
            yield run, {"steps": 1, "epoch": 1, "error": 0.25}
            twin = {"running_statistics": RUNNING} if run.twin else {}
            yield run, {"result": fake_result(error_of(run), **twin)}

    monkeypatch.setattr(pool, "train", fake_train)
    return runs


@pytest.fixture
def start(tmp_path, trained, monkeypatch):
    """Runs a study; returns the results, and the tuning, that the report is given."""
    reported = []

    def write(study, dataset, environment, results, console, tuning=None):
        reported.append((results, tuning))

    def start_(*options):
        argv = ["study", "--batch-sizes", "4,16", "--seeds", "5,6", "--out", str(tmp_path)]
        assert tfgn_cli.main([*argv, *options]) == 0
        return reported[-1]

    monkeypatch.setattr(report, "write", write)
    return start_


# Two norms that share a training.


def of_norm(results, norm):
    return [result for result in results if result["config"]["norm"] == norm]


def test_one_training_gives_bn_and_bn_precise(start, trained):
    results, _ = start("--norms", "bn,bn+precise,gn")
    assert [(run.norm, run.batch_size, run.seed) for run, _ in trained] == [
        (norm, size, seed) for size in (16, 4) for norm in ("bn+precise", "gn") for seed in (5, 6)
    ]
    assert len(results) == 12
    for result in of_norm(results, "bn"):
        assert (result["error"], result["seconds"]) == (RUNNING["error"], RUNNING["seconds"])
        assert result["history"] == fake_result(0.1)["history"] | RUNNING["history"]
        assert "running_statistics" not in result
    for result in of_norm(results, "bn+precise"):
        assert result["error"] == pytest.approx(0.1) and result["running_statistics"] == RUNNING
    trained.clear()
    assert sorted(map(str, start("--norms", "bn+precise,bn,gn")[0])) == sorted(map(str, results))
    assert not trained


def test_bn_that_was_trained_before_keeps_its_result(start, trained):
    before, _ = start("--norms", "bn")
    trained.clear()
    results, _ = start("--norms", "bn,bn+precise")
    assert {run.norm for run, _ in trained} == {"bn+precise"} and len(trained) == 4
    assert of_norm(results, "bn") == before


def test_bn_need_not_be_trained_after_bn_precise(start, trained):
    start("--norms", "bn+precise")
    trained.clear()
    results, _ = start("--norms", "bn")
    assert {result["error"] for result in results} == {RUNNING["error"]} and not trained


# Tuned learning rates.


def test_tuning_gives_every_norm_and_batch_size_the_same_trials(start, tmp_path, trained, capsys):
    results, grid = start("--norms", "bn,gn", "--tune-learning-rate")
    assert "28 runs on" in capsys.readouterr().out.replace("\n", " ")
    trials, runs = trained[:20], trained[20:]
    assert {(run.norm, run.batch_size, run.seed, run.learning_rate) for run, _ in trials} == {
        (norm, size, 5, 0.1 * factor)
        for norm in ("bn", "gn")
        for size in (4, 16)
        for factor in TUNING_FACTORS
    }
    assert {(run.norm, run.batch_size, run.seed, run.learning_rate) for run, _ in runs} == {
        (norm, size, seed, {"bn": 0.1, "gn": 0.2}[norm])
        for norm in ("bn", "gn")
        for size in (4, 16)
        for seed in (5, 6)
    }
    # The trials know neither the validation images nor the data set that has them.
    dataset = data.prepare(study(out=tmp_path), lambda files, text: files)
    assert {(run.data, name) for run, name in runs} == {(dataset.digest, dataset.path.name)}
    held = data.hold_out(dataset)
    assert {(run.data, name) for run, name in trials} == {(held.digest, held.path.name)}

    assert [(x["norm"], x["batch_size"], x["learning_rate"], x["edge"]) for x in grid] == [
        ("bn", 4, 0.1, False),
        ("bn", 16, 0.1, False),
        ("gn", 4, 0.2, False),
        ("gn", 16, 0.2, False),
    ]
    first = grid[0]["trials"]
    assert [trial["learning_rate"] for trial in first] == [0.1 * f for f in TUNING_FACTORS]
    assert [trial["error"] for trial in first] == pytest.approx([0.175, 0.15, 0.1, 0.2, 0.4])
    assert all(trial["loss"] == trial["error"] and not trial["diverged"] for trial in first)
    assert len(results) == 8


def test_factors_give_the_rates_that_are_tried(start, trained):
    _, grid = start("--norms", "gn", "--tune-learning-rate", "--tuning-factors", "0.25,1,4")
    assert [cell["learning_rate"] for cell in grid] == [0.1, 0.1]
    assert [trial["learning_rate"] for trial in grid[0]["trials"]] == [0.025, 0.1, 0.4]
    assert len(trained) == 2 * 3 + 2 * 2


def test_tuned_study_continues(start, trained, capsys):
    start("--norms", "bn,gn", "--tune-learning-rate")
    trained.clear()
    start("--norms", "bn,gn", "--tune-learning-rate")
    assert not trained and "28 done before" in capsys.readouterr().out.replace("\n", " ")
    # Another batch size has trials and runs of its own; a plain study shares the runs with 0.1.
    start("--norms", "bn,gn", "--tune-learning-rate", "--batch-sizes", "4,16,8")
    assert {run.batch_size for run, _ in trained} == {8} and len(trained) == 10 + 4
    trained.clear()
    assert start("--norms", "bn,gn")[1] is None
    assert {run.norm for run, _ in trained} == {"gn"}


@pytest.mark.parametrize("norm", ["gn", "bn+precise"])
def test_interruption_counts_the_trials_and_no_twins(tmp_path, trained, capsys, monkeypatch, norm):
    train = pool.train

    def interrupted(configs, *arguments):
        for number, message in enumerate(train(configs, *arguments)):
            yield message
            if number == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(pool, "train", interrupted)
    argv = ["study", "--norms", norm, "--batch-sizes", "4", "--seeds", "5", "--out", str(tmp_path)]
    assert tfgn_cli.main([*argv, "--tune-learning-rate"]) == 130
    assert "interrupted: 3 of 6 runs are kept" in capsys.readouterr().err


def test_tuning_leaves_fewer_images_to_a_batch(tmp_path, trained, capsys):
    argv = ["study", "--batch-sizes", "719", "--tune-learning-rate", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        tfgn_cli.main(argv)
    assert "at most the 718 training images" in capsys.readouterr().err and not trained


def test_best_rate_is_that_of_the_lowest_error_then_of_the_lowest_loss():
    def result(error, loss, diverged=False):
        history = {"val_loss": [9.0, loss]}
        return fake_result(error, history=history, diverged=diverged)

    results = {
        run_config(learning_rate=0.1): result(0.2, 0.5),
        run_config(learning_rate=0.2): result(0.2, 0.4),
        run_config(learning_rate=0.4): result(0.2, None),
        run_config(learning_rate=0.8): result(0.1, 0.1, diverged=True),
        run_config(learning_rate=0.1, norm="bn"): result(0.5, 0.5, diverged=True),
    }
    (gn, rate), (bn, of_bn) = tuning.best(results).items()
    assert (gn[1].norm, rate, bn[1].norm, of_bn) == ("gn", 0.2, "bn", 0.1)


def test_norms_that_share_a_training_share_its_rate(start, trained):
    def trial(norm, rate, error):
        return run_config(norm=norm, groups=None, learning_rate=rate), fake_result(error)

    errors = {"bn": (0.3, 0.4, 0.9), "bn+precise": (0.5, 0.1, 0.05)}
    results = dict(
        trial(norm, rate, error)
        for norm, of_norm in errors.items()
        for rate, error in zip((0.1, 0.2, 0.4), of_norm, strict=True)
    )
    assert set(tuning.best(results).values()) == {0.2}
    alone = {run: result for run, result in results.items() if run.norm == "bn+precise"}
    assert list(tuning.best(alone).values()) == [0.4]
    # One training for each trial and each seed.
    start("--norms", "bn,bn+precise", "--batch-sizes", "4", "--tune-learning-rate")
    assert {run.norm for run, _ in trained} == {"bn+precise"} and len(trained) == 5 + 2


def test_rate_at_the_edge_of_the_grid_is_marked():
    planned = study(norms=("gn",), batch_sizes=(4,))
    trials = planned.trials("", "")
    results = {run: fake_result(1 - run.learning_rate) for run in trials}
    (cell,) = tuning.summarize(planned, results)
    assert cell["learning_rate"] == 0.4 and cell["edge"]


def test_progress_counts_the_steps_of_what_is_missing(tmp_path, trained):
    planned = study(norms=("bn", "bn+precise", "gn"), batch_sizes=(4,), seeds=(0,), out=tmp_path)
    (tmp_path / "runs").mkdir()
    runs = planned.runs("", "")
    dataset = data.Dataset("squares", tmp_path / "data.npz", "digest", 2, 42, 10)
    state = trainings.Trainings(planned, Console(quiet=True))
    total = state._progress.tasks[0]
    state.expect({dataset: runs})
    assert (total.total, total.description) == (2 * 8 * 10, "2 runs")
    state.complete(runs[:2], dataset)
    assert total.completed == 8 * 10
    state.expect({dataset: runs})
    assert (total.total, total.description) == (2 * 8 * 10, "1 run")


def test_progress_fits_into_80_columns(tmp_path):
    planned = study(norms=("bn+accumulate",), batch_sizes=(16,), seeds=(0,), out=tmp_path)
    (run,) = planned.runs("", "")
    dataset = data.Dataset("squares", tmp_path / "data.npz", "digest", 2, 16_000, 10)
    console = Console(width=80, record=True)
    state = trainings.Trainings(planned, console)
    state.expect({dataset: [run]})
    row = state._progress.add_task("", total=8000)
    state._show(run, {"epoch": 1, "error": 0.1234, "steps": 1000}, row)
    console.print(state._progress.get_renderable())
    text = console.export_text()
    # The name, which is long, is wrapped, and no number is cut.
    assert "bn+accumulate, batch 16, seed 0, epoch 1/8" in text and "12.3%" in text
    assert text.count("1000/8000 steps left: -:--:--") == 2
    assert max(map(len, text.splitlines())) <= 80
