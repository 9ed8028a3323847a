"""One training of a study: repeatable, interruptible, with each of its options."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from study_runs import run_config
from tensorflow_groupnorm import models
from tfgn_base import files
from tfgn_study.norms import NORMS
from tfgn_study.train import batch_statistics, checkpoint, images, network, optimizers, worker
from tfgn_study.train.normalizations import batch_norm, normalizer_free

pytestmark = pytest.mark.slow

# Keras hands variables to NumPy in the manner of NumPy 1 when it saves weights.
KERAS_SAVES = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Two classes of gray images that a mean tells apart."""
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    x = (rng.integers(0, 128, (24, 8, 8, 1)) + 100 * y[:, None, None, None]).astype(np.uint8)
    path = tmp_path_factory.mktemp("arrays") / "data.npz"
    np.savez(path, x_train=x[:16], y_train=y[:16], x_val=x[16:], y_val=y[16:])
    return path


def train(run, arrays, **options):
    return worker.train(run, arrays, lambda message: None, **options)


def test_training_is_repeatable_and_depends_on_the_seed(arrays):
    def history(seed):
        return worker.train(run_config(seed=seed), arrays, messages.append)["history"]

    messages = []
    first = history(0)
    assert [message["epoch"] for message in messages if "epoch" in message] == [1]
    assert messages[-1]["steps"] == 16 // 4
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


@KERAS_SAVES
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "bn+precise", "ema": 0.9, "augment": True},
        pytest.param({"norm": "gn", "ema": 0.9, "augment": True}, marks=pytest.mark.thorough),
        pytest.param({"norm": "bn+frozen"}, marks=pytest.mark.thorough),
        pytest.param({"norm": "bn+renorm"}, marks=pytest.mark.thorough),
        pytest.param({"norm": "bn+accumulate", "batch_size": 3}, marks=pytest.mark.thorough),
    ],
    ids=lambda options: options["norm"],
)
def test_interrupted_training_ends_as_one_that_was_not(arrays, tmp_path, monkeypatch, options):
    run = run_config(**{"epochs": 3} | options)
    whole = train(run, arrays)
    saved = checkpoint.Checkpoint.on_epoch_end

    def interrupt(self, epoch, logs=None):
        saved(self, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "on_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(run, arrays, checkpoints=tmp_path)
    monkeypatch.setattr(checkpoint.Checkpoint, "on_epoch_end", saved)
    steps = []
    emit = lambda message: steps.append(message["steps"])  # noqa: E731
    resumed = worker.train(run, arrays, emit, checkpoints=tmp_path)
    an_epoch = 16 // run.batch_size
    assert steps[-1] == 3 * an_epoch and min(steps) > 2 * an_epoch
    assert resumed["history"] == whole["history"] and resumed["error"] == whole["error"]
    if "running_statistics" in whole:
        of_resumed, of_whole = (x["running_statistics"]["history"] for x in (resumed, whole))
        assert of_resumed == of_whole
    assert not list(tmp_path.iterdir())


@KERAS_SAVES
@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (keras.Model, "save_weights"),
        pytest.param(Path, "write_text", marks=pytest.mark.thorough),
        (os, "replace"),
    ],
)
def test_state_that_is_not_whole_is_not_read(arrays, tmp_path, monkeypatch, owner, step):
    """The training dies in its second epoch's checkpoint, with a part of that written."""
    run = run_config(norm="gn", epochs=3)
    whole = train(run, arrays)
    take, times = getattr(owner, step), []

    def take_and_die(*args, **kwargs):
        times.append(step)
        if len(times) == 2 and step == "replace":
            raise KeyboardInterrupt
        result = take(*args, **kwargs)
        if len(times) == 2:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as context:
        context.setattr(owner, step, take_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(run, arrays, checkpoints=tmp_path)
    steps = []
    emit = lambda message: steps.append(message["steps"])  # noqa: E731
    resumed = worker.train(run, arrays, emit, checkpoints=tmp_path)
    assert 4 < min(steps) <= 2 * 4, "goes on behind the first epoch"
    assert resumed["history"] == whole["history"] and resumed["error"] == whole["error"]
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path):
    with files.whole(tmp_path / "2") as unfinished:
        unfinished.mkdir()
        left = unfinished.parent.parent.name
    (tmp_path / "2").rmdir()
    (tmp_path / left).mkdir()
    assert checkpoint.Checkpoint(tmp_path, None).restore(None) == 0
    assert not list(tmp_path.iterdir())


@KERAS_SAVES
def test_diverged_training_that_dies_before_its_result_does_not_go_on(
    arrays, tmp_path, monkeypatch
):
    run = run_config(norm="none", learning_rate=1e30, epochs=3)

    def die(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(checkpoint.Checkpoint, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            train(run, arrays, checkpoints=tmp_path)
    resumed = train(run, arrays, checkpoints=tmp_path)
    assert resumed["diverged"] and resumed["history"]["loss"] == [None]


@pytest.fixture(scope="module")
def plain(arrays):
    """The history of a training without any option."""
    return train(run_config(epochs=1, norm="none"), arrays)["history"]


@pytest.mark.parametrize(
    "change",
    [{"ema": 0.9}, {"clip_norm": 0.01}, {"agc": 0.01}, {"augment": True}],
    ids=str,
)
def test_options_change_the_training_and_nothing_after_it(arrays, plain, change):
    changed = train(run_config(epochs=1, norm="none", **change), arrays)["history"]
    assert changed["val_loss"] != plain["val_loss"]
    assert all(math.isfinite(loss) for loss in changed["val_loss"])
    assert keras.config.dtype_policy().name == "float32"


def test_save_memory_does_not_change_the_training(arrays):
    plain, saving = (
        train(run_config(epochs=2, norm="gn+ws", save_memory=given), arrays)["history"]
        for given in (False, True)
    )
    assert saving == plain


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"mixed_precision": "bfloat16"}, marks=pytest.mark.thorough),
        pytest.param({"mixed_precision": "float16"}, marks=pytest.mark.thorough),
        pytest.param({"jit": True}, marks=pytest.mark.thorough),
        {"jit": True, "mixed_precision": "float16", "agc": 0.1, "clip_norm": 1.0},
        pytest.param(
            {"jit": True, "mixed_precision": "bfloat16", "save_memory": True},
            marks=pytest.mark.thorough,
        ),
    ],
    ids=str,
)
def test_precision_and_jit_learn_as_float32_does(arrays, change):
    """In a process of its own: Keras does without XLA where determinism is enabled, as here."""
    run = run_config(epochs=6, norm="gn+ws", learning_rate=0.2, **change)
    command = [sys.executable, "-m", "tfgn_study.train.worker"]
    command += [json.dumps(run.as_dict()), str(arrays)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    assert "jit_compile" not in answer.stderr
    # TensorFlow says so when XLA compiles its first cluster.
    assert ("Compiled cluster using XLA" in answer.stderr) == ("jit" in change), answer.stderr
    history = json.loads(answer.stdout.splitlines()[-1])["result"]["history"]
    assert history["loss"][-1] < 0.5 * history["loss"][0]


@pytest.mark.parametrize(("jit", "given"), [(None, "auto"), (True, True), (False, False)])
def test_keras_decides_about_jit_unless_told(arrays, monkeypatch, jit, given):
    received = []

    def compile_(self, *args, jit_compile, **kwargs):
        received.append(jit_compile)
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "compile", compile_)
    with pytest.raises(KeyboardInterrupt):
        train(run_config(jit=jit), arrays)
    assert received == [given]


@pytest.mark.parametrize(
    "options",
    [
        {"ema": 0.9},
        pytest.param({}, marks=pytest.mark.thorough),
        pytest.param({"mixed_precision": "bfloat16"}, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_precise_statistics_are_measured_beside_the_training_of_bn(arrays, options):
    plain = train(run_config(norm="bn", epochs=2, **options), arrays)
    precise = train(run_config(norm="bn+precise", epochs=2, **options), arrays)
    running = precise["running_statistics"]
    assert running["error"] == plain["error"]
    for key in ("val_loss", "val_error"):
        assert running["history"][key] == plain["history"][key]
    for key in ("loss", "train_error"):
        assert precise["history"][key] == plain["history"][key]
    assert precise["history"]["val_loss"] != plain["history"]["val_loss"]
    assert 0 < running["seconds"] < precise["seconds"]


def test_population_is_that_of_all_images():
    """Of the first layer, as the later ones depend on the statistics of the batches before them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_statistics.MEASURED_BATCH + 44, 8, 8, 1), np.uint8)
    model = network.build(run_config(norm="bn"), (8, 8, 1), 2)
    population = batch_statistics.Population(model, images)
    population.measure()
    first = population.layers[0]
    read = keras.Model(model.inputs, first.input).predict(images, verbose=0).astype(np.float64)
    np.testing.assert_allclose(first.moving_mean, read.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, read.var((0, 1, 2)), rtol=1e-4)
    assert {layer.momentum for layer in population.layers} == {batch_norm.MOMENTUM}
    # Whatever the statistics were before.
    expected = [layer.moving_variance.numpy() for layer in population.layers]
    for layer in population.layers:
        layer.moving_variance.assign(np.full(layer.moving_variance.shape, 7.0))
    population.measure()
    for layer, variance in zip(population.layers, expected, strict=True):
        np.testing.assert_array_equal(layer.moving_variance, variance)


def test_statistics_are_frozen_in_the_last_fifth(arrays, monkeypatch):
    seen = []

    def measure(self):
        seen.append("measured")
        for layer in self.layers:
            layer.moving_mean.assign(np.full(layer.moving_mean.shape, 0.25))

    def note(self, epoch, logs=None):
        layer = next(x for x in self.model.layers if isinstance(x, keras.layers.BatchNormalization))
        seen.append(bool((layer.moving_mean.numpy() == 0.25).all()))
        end(self, epoch, logs)

    end = worker.Progress.on_epoch_end
    monkeypatch.setattr(batch_statistics.Population, "measure", measure)
    monkeypatch.setattr(worker.Progress, "on_epoch_end", note)
    result = train(run_config(norm="bn+frozen", epochs=6), arrays)
    assert seen == [False, False, False, False, "measured", True, True]
    assert len(result["history"]["loss"]) == 6


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 16), (3, 6), (8, 2), (16, None)])
def test_gradients_are_accumulated_to_16_images(batch_size, batches):
    run = run_config(norm="bn+accumulate", batch_size=batch_size)
    optimizer = optimizers.build(run, 5, keras.layers.Dense(1))
    assert optimizer.gradient_accumulation_steps == batches
    assert run.peak_learning_rate == pytest.approx(0.1 * batch_size * (batches or 1) / 32)


def test_normalizer_free_networks_are_clipped_adaptively():
    head = keras.layers.Dense(1)
    for given, factor in ((None, 0.16), (0.5, 0.5)):
        optimizer = optimizers.build(run_config(norm="nf", agc=given), 5, head)
        assert optimizer._clipping == factor
    assert type(optimizers.build(run_config(norm="ws"), 5, head)) is keras.optimizers.SGD


@pytest.mark.thorough
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_learns(arrays, norm):
    result = train(run_config(norm=norm, epochs=4, learning_rate=0.2), arrays)
    assert result["history"]["loss"][-1] < result["history"]["loss"][0]
    assert not result["diverged"]


def test_adaptive_clipping_spares_the_head():
    head = keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False), head])
    optimizer = optimizers.build(run_config(agc=0.25, batch_size=32, epochs=1000), 1000, head)
    kernel, *of_head = model.trainable_variables
    kernel.assign([[3.0], [4.0]])
    head.kernel.assign([[1.0]])
    before = [variable.numpy() for variable in of_head]
    gradients = [tf.constant([[60.0], [80.0]]), tf.constant([[100.0]]), tf.constant([100.0])]
    optimizer.apply(gradients, model.trainable_variables)
    # A norm of 100 becomes 0.25 x 5; the rate is 0.1.
    np.testing.assert_allclose(kernel.numpy(), [[3 - 0.1 * 0.75], [4 - 0.1]], rtol=1e-6)
    for variable, value in zip(of_head, before, strict=True):
        np.testing.assert_allclose(variable.numpy(), value - 10, rtol=1e-5)


def test_adaptive_clipping_spares_the_gain_of_a_branch():
    branch = normalizer_free.SkipInit()
    model = keras.Sequential([keras.Input((2,)), branch, keras.layers.Dense(1)])
    run = run_config(norm="nf", batch_size=32, epochs=1000)
    optimizer = optimizers.build(run, 1000, model.layers[-1])
    optimizer.apply([tf.constant(5.0), tf.zeros((2, 1)), tf.zeros(1)], model.trainable_variables)
    np.testing.assert_allclose(branch.gain, -0.5, rtol=1e-5)


def test_options_reach_keras():
    run = run_config(clip_norm=2.0, ema=0.9, batch_size=64)
    optimizer = optimizers.build(run, 5, keras.layers.Dense(1))
    assert (optimizer.global_clipnorm, optimizer.use_ema, optimizer.ema_momentum) == (2, True, 0.9)
    assert float(optimizer.learning_rate) == pytest.approx(0.2)
    with worker._precision("float16"):
        model = network.build(run, (8, 8, 1), 3)
    assert model.output.dtype == "float32"
    dtypes = {layer.compute_dtype for layer in model.layers if "conv" in layer.name}
    assert dtypes == {"float16"}


def test_augmented_images_are_shifted_flipped_and_repeatable():
    x = np.arange(16 * 64, dtype=np.uint16).reshape(16, 8, 8, 1).astype(np.uint8)
    y = np.arange(16)
    run = run_config(augment=True, batch_size=16)

    def epochs(run):
        dataset = images.training_set(x, y, run)
        return [next(iter(dataset.as_numpy_iterator())) for _ in range(2)]

    first, second = epochs(run)
    order = np.argsort(first[1])
    assert sorted(first[1]) == list(range(16)) and first[0].shape == x.shape
    changed = (first[0][order] != x).any((1, 2, 3))
    assert changed.sum() > 8
    assert not np.array_equal(first[0][order], second[0][np.argsort(second[1])])
    for again, before in zip(epochs(run), (first, second), strict=True):
        np.testing.assert_array_equal(again[0], before[0])
    plain = epochs(dataclasses.replace(run, augment=False))[0]
    np.testing.assert_array_equal(plain[0][np.argsort(plain[1])], x)


def test_fine_tuning_starts_from_the_checkpoint(arrays, tmp_path, monkeypatch):
    loaded = []

    def load(model, path, head):
        assert not model.get_layer("head").kernel.numpy().any()
        loaded.append((path, head))

    monkeypatch.setattr(models, "load_bit_npz", load)
    path = tmp_path / "BiT.npz"
    train(run_config(epochs=1, norm="none", bit_checkpoint="digest"), arrays, bit_checkpoint=path)
    assert loaded == [(path, "zeros")]
