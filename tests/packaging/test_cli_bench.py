"""`tfgn bench MODEL`: its processes, its checks of the model, its search and its tables."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import tfgn_cli
from rich.console import Console
from tensorflow_groupnorm.layers import RecomputedNormalization
from tfgn_cli import _memory
from tfgn_cli._model_bench import models, run, steps, tables
from tfgn_cli._model_bench.job import AS_IT_IS, CONVERTED, SAVING, VARIANTS, Job, RefusedError
from tfgn_cli._model_bench.largest_batch import MOST_SIZES, Search
from tfgn_cli._model_bench.measuring import Measurer
from tfgn_cli._model_bench.sources import Sources
from tfgn_cli._processes import NotStartedError, WorkerDiedError, WorkerError, WorkerProcess

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MIB = 2**20
WORKER = """
import os, sys
from tfgn_cli._processes import serve
class Worker:
    def twice(self, number): return 2 * number
    def fail(self): raise ValueError("for a reason")
    def die(self): os.kill(os.getpid(), 9)
def create():
    if sys.argv[1] == "missing": import package_that_is_missing
    return Worker(), sys.argv[1]
serve(sys.argv[2], create)
"""
# Runs in a graph, but not under XLA.
PYTHON_LAYER = """
import keras, tensorflow as tf
@keras.saving.register_keras_serializable("of_the_user")
class InPython(keras.layers.Layer):
    def call(self, x):
        one = tf.ensure_shape(tf.numpy_function(lambda: 1.0, [], tf.double), [])
        return x * tf.cast(tf.stop_gradient(one), x.dtype)
"""


def small(size=None, layers=(), batch_size=None, dtype="float32"):
    inputs = keras.Input((size, size, 3), batch_size=batch_size, dtype=dtype, name="images")
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="norm")(x))
    for layer in [keras.layers.Conv2D(8, 3, name="conv2"), *layers]:
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="small")


@pytest.fixture
def saved(tmp_path):
    small().save(tmp_path / "in.keras")
    return str(tmp_path / "in.keras")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["in.keras", "--batch-size", "2"], "argument MODEL: there is no file in.keras"),
        (["folder/model", "--batch-size", "2"], "argument MODEL: there is no file folder/model"),
        (["ResNet50"], "argument --batch-size: MODEL needs it"),
        (["ResNet50", "--batch-size", "0"], "--batch-size: expected at least 1, received 0"),
        (["ResNet50", "--batch-size", "1", "--image-size", "-1"], "--image-size: expected at"),
        (["ResNet50", "--batch-size", "1", "--groups", "0"], "argument --groups: expected a pos"),
        (["ResNet50", "--batch-size", "1", "--repeats", "0"], "argument --repeats: expected at"),
        (["ResNet50", "--batch-size", "1", "--memory", "1e9"], "GB that this machine has left"),
        (["ResNet50", "--batch-size", "1", "--memory", "nan"], "received nan"),
        (["ResNet50", "--batch-size", "1", "--shapes", "2x4"], "--shapes: not allowed with MODEL"),
        (["--batch-size", "1"], "argument --batch-size: needs MODEL"),
        (["--import", "module"], "argument --import: needs MODEL"),
        (["--no-jit"], "argument --no-jit: needs MODEL"),
    ],
)
def test_bad_options_are_one_sentence_and_exit_code_2(argv, sentence, capsys):
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(["bench", *argv])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert sentence in error and error.count("\n") == 1


def job(model="in.keras", batch_size=2, **options):
    return Job(model, batch_size, **options)


def test_inputs_get_the_sizes_of_the_job():
    (spec,) = models.inputs(small(), job(image_size=16))
    assert spec.shape.as_list() == [2, 16, 16, 3] and spec.dtype == tf.float32
    (spec,) = models.inputs(small(size=12), job())
    assert spec.shape.as_list() == [2, 12, 12, 3]
    (spec,) = models.inputs(small(size=12), job(image_size=12))
    assert spec.shape.as_list() == [2, 12, 12, 3]
    named = {name: keras.Input((4,), name=name) for name in ("a", "b")}
    added = keras.layers.Add()([keras.layers.Dense(1)(named["a"]), named["b"]])
    ((specs),) = models.inputs(keras.Model(named, added), job())
    assert {name: spec.shape.as_list() for name, spec in specs.items()} == {
        name: [2, 4] for name in named
    }
    drawn = steps.draw([specs])
    assert drawn[0].keys() == named.keys() and float(tf.math.reduce_std(drawn[0]["a"])) > 0


def frozen():
    model = small(size=8)
    model.trainable = False
    return model


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (lambda: small(), {}, "images of small has the shape (None, None, None, 3): --image-size"),
        (lambda: small(size=8), {"image_size": 9}, "takes inputs of the shape (None, 8, 8, 3) and"),
        (lambda: small(size=8, batch_size=4), {}, "takes batches of 4 only: --batch-size 4"),
        (lambda: small(size=8, dtype="uint8"), {}, "images of small takes uint8, which random"),
        (frozen, {}, "small has no trainable weights"),
        (lambda: keras.Sequential([keras.layers.Dense(1)], name="new"), {}, "new"),
    ],
)
def test_models_that_random_numbers_cannot_train_are_refused(model, options, sentence):
    with pytest.raises(RefusedError, match=re.escape(sentence)):
        models.inputs(model(), job(**options))


def test_outputs_without_a_gradient_are_refused():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(3)(inputs)
    specs = [tf.TensorSpec([2, 4])]
    model = keras.Model(inputs, keras.ops.argmax(dense, axis=-1), name="picks")
    with pytest.raises(RefusedError, match="an output of picks is int32, which has no gradient"):
        steps.inference(model, specs, jit=False)
    model = keras.Model(inputs, keras.ops.stop_gradient(dense), name="stops")
    with pytest.raises(RefusedError, match="no output of stops depends on a trainable weight"):
        steps.training_step(model, keras.optimizers.SGD(), jit=False)(tf.ones([2, 4]))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("ResNet50V3", {}, "neither a file nor the name of a model of keras.applications; similar"),
        ("resnet50v2", {}, "similar names are ResNet50V2, "),
        ("resnet", {}, "similar names are"),
        ("quite_another", {}, "of a model of keras.applications"),
        ("ResNet50", {"image_size": 8}, "ResNet50 cannot be built: Input size must be at least"),
        ("ResNet50", {"modules": ("no.such.module",)}, "--import: No module named 'no'"),
    ],
)
def test_models_that_are_not_there_are_refused(name, options, sentence):
    with pytest.raises(RefusedError, match=re.escape(sentence)):
        models.of_job(job(name, **options), AS_IT_IS)


def test_applications_are_built_for_the_size_of_the_images():
    model, _ = models.of_job(job("MobileNet", image_size=32), AS_IT_IS)
    (spec,) = models.inputs(model, job(image_size=32))
    assert spec.shape.as_list() == [2, 32, 32, 3]


def test_models_are_converted(saved):
    model, notes = models.of_job(job(saved, groups=4), CONVERTED)
    assert model.get_layer("norm").groups == 4 and not notes
    model, notes = models.of_job(job(saved), SAVING)
    (pair,) = [x for x in model.layers if isinstance(x, RecomputedNormalization)]
    assert [layer.name for layer in pair.layers] == ["conv2"] and not notes
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]).save(saved)
    _, notes = models.of_job(job(saved), SAVING)
    assert notes[:2] == [
        "the conversion replaces no layer of this model",
        "no normalization of this model could be paired with what reads its output",
    ]


@pytest.mark.parametrize("jit", [False, True])
def test_a_step_minimizes_the_mean_squares_and_the_losses_of_the_model(jit):
    inputs = keras.Input((2,))
    layer = keras.layers.Dense(1, kernel_initializer="ones", kernel_regularizer="l2")
    model = keras.Model(inputs, [layer(inputs), inputs])
    loss = steps.training_step(model, steps.optimizer_of(model), jit)(tf.constant([[1.0, 2.0]]))
    np.testing.assert_allclose(loss, 9 + 2.5 + 0.02, rtol=1e-6)
    # d(9 + 0.01 |w|^2)/dw = 6 x + 0.02 w, and the first step of SGD has no momentum.
    rate = steps.LEARNING_RATE
    expected = [[1 - 6.02 * rate], [1 - 12.02 * rate]]
    np.testing.assert_allclose(layer.kernel, expected, rtol=1e-6)


def test_the_optimizer_is_that_of_the_model():
    model = small()
    assert steps.optimizer_of(model).momentum == steps.MOMENTUM
    model.compile(keras.optimizers.Adam(0.125))
    optimizer = steps.optimizer_of(model)
    assert isinstance(optimizer, keras.optimizers.Adam) and float(optimizer.learning_rate) == 0.125
    assert model.optimizer is None and not optimizer.built


def test_variants_are_converted_to_files_once(saved, tmp_path):
    asked = []

    def ask(method, *arguments):
        asked.append(arguments[1])
        return getattr(Measurer(), method)(*arguments)

    sources = Sources(job(saved), tmp_path, ask)
    assert sources.of(AS_IT_IS) == (job(saved), AS_IT_IS, [])
    source = sources.of(SAVING)
    assert sources.of(SAVING) is source and asked == [SAVING]
    model, _ = models.of_job(source.job, source.variant)
    assert any(isinstance(layer, RecomputedNormalization) for layer in model.layers)


def test_models_that_cannot_be_saved_are_converted_by_their_row(saved, tmp_path, monkeypatch):
    def fail(*_):
        raise NotImplementedError("no config")

    monkeypatch.setattr(keras.Model, "save", fail)
    sources = Sources(job(saved), tmp_path, lambda name, *args: getattr(Measurer(), name)(*args))
    notes = ["measured with the memory of its conversion: no config"]
    assert sources.of(SAVING) == (job(saved), SAVING, notes)


def test_compiled_models_are_trained_after_a_conversion(saved):
    model = small(size=12)
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    model.save(saved)
    for variant in (AS_IT_IS, SAVING):
        model, _ = models.of_job(job(saved), variant)
        step = steps.training_step(model, steps.optimizer_of(model), jit=False)
        kernels = [weight for weight in model.trainable_variables if weight.name == "kernel"]
        before = [kernel.numpy() for kernel in kernels]
        step(tf.random.normal([2, 12, 12, 3]))
        assert len(kernels) == 3
        for kernel, old in zip(kernels, before, strict=True):
            assert (kernel.numpy() != old).any()


def test_peak_memory_is_that_of_the_call():
    def allocate(mib):
        return lambda: np.ones(mib * MIB // 8).sum()

    allocate(256)()
    _memory.trim()
    before = _memory.resident()
    assert 60 * MIB < _memory.peak_of(allocate(64)) - before < 100 * MIB
    assert 0 < _memory.resident() <= _memory.peak()
    assert 0 < _memory.available() < 2**50


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "worker_of_this_test.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "worker_of_this_test"


def test_a_process_answers_fails_and_dies(worker):
    with WorkerProcess(worker, "facts") as process:
        assert process.facts == "facts" and process.call("twice", 21) == 42
        with pytest.raises(WorkerError, match="Traceback") as raised:
            process.call("fail")
        assert raised.value.sentence == "ValueError: for a reason"
        assert process.call("twice", 2) == 4
        with pytest.raises(WorkerDiedError) as raised:
            process.call("die")
        assert raised.value.exit_code == -signal.SIGKILL
        assert "as the kernel does when memory runs out" in raised.value.sentence
    with pytest.raises(NotStartedError, match="^No module named 'package_that_is_missing'$"):
        WorkerProcess(worker, "missing")


def peaks(fixed, each, most=None):
    """The peak of a step that takes so many MiB, for the weights and for each sample."""
    return lambda size: None if most and size > most else MIB * (fixed + each * size)


@pytest.mark.parametrize(
    ("peak", "first", "limit", "largest"),
    [
        (peaks(100, 10), 2, 1000, 90),
        (peaks(0, 10), 90, 950, 95),
        (peaks(900, 1), 1, 990, 90),
        (peaks(100, 10), 90, 150, 5),
        (peaks(100, 10), 1, 105, 0),
        (peaks(100, 10), 64, 105, 0),
        (peaks(100, 10, most=40), 8, 1000, 40),
        (lambda size: MIB * (100 + 10 * size + size % 3), 2, 1000, 90),
    ],
)
def test_the_largest_batch_is_measured_and_the_next_is_too_large(peak, first, limit, largest):
    search = Search(limit * MIB, {first: peak(first)})
    search.run(peak, lambda: 1 << 60)
    assert search.largest == largest and search.too_large == largest + 1
    assert not search.stopped and len(search.peaks) <= MOST_SIZES


@pytest.mark.parametrize("seed", range(20))
def test_noise_delays_the_search_by_a_few_sizes(seed):
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.95, 1.05, size=1000)
    search = Search(1000 * MIB, {4: int(peaks(500, 7)(4) * noise[4])})
    search.run(lambda size: int(peaks(500, 7)(size) * noise[size]), lambda: 1 << 60)
    assert not search.stopped and search.too_large - search.largest == 1
    assert 60 <= search.largest <= 82


def test_large_batches_are_found_to_two_percent():
    search = Search(10_000 * MIB, {8: peaks(100, 1)(8)})
    search.run(peaks(100, 1), lambda: 1 << 60)
    assert 0.98 * 9900 <= search.largest <= 9900 < search.too_large <= 1.02 * 9900


def test_a_search_never_runs_what_the_machine_has_no_memory_for():
    run_sizes = []

    def measure(size):
        run_sizes.append(size)
        return peaks(100, 10)(size)

    search = Search(1000 * MIB, {10: peaks(100, 10)(10)})
    search.run(measure, lambda: 600 * MIB)
    assert run_sizes and all(peaks(100, 10)(size) <= 600 * MIB for size in run_sizes)
    assert search.largest == 50 and search.too_large is None
    assert search.stopped.startswith("batch 51 was not run: it would need about 0.6 GB")


def test_rows_are_not_run_where_the_others_leave_no_memory(monkeypatch):
    monkeypatch.setattr(_memory, "available", lambda: 2**30)
    first = {"peak_bytes": 1000 * MIB}
    process, values = run._start(None, run.Row(CONVERTED, False), first)
    assert process is None and values["peak_bytes"] is None
    assert values["error"] == "it was not run: the other processes leave only 1.0 GB"


def test_each_variant_is_searched_from_its_row(tmp_path, monkeypatch):
    each = {AS_IT_IS: 10, str(tmp_path / "0.keras"): 5}

    def convert(method, job, variant, path):
        assert (method, variant) == ("convert", SAVING)
        return {"saved": True, "notes": []}

    monkeypatch.setattr(
        run, "_peak", lambda source, size: MIB * (50 + size * each[source.job.model])
    )
    rows = [
        {"variant": AS_IT_IS, "jit": False, "error": None, "peak_bytes": 70 * MIB},
        {"variant": CONVERTED, "jit": False, "error": "it failed", "peak_bytes": None},
        {"variant": SAVING, "jit": False, "error": None, "peak_bytes": 60 * MIB},
        {"variant": SAVING, "jit": True, "error": None, "peak_bytes": 60 * MIB},
    ]
    sources = Sources(job(AS_IT_IS), tmp_path, convert)
    searches = run._searches(sources, 150 * MIB, rows, run._progress())
    found = [(s["variant"], s["batch_size"], s["too_large"], s["note"]) for s in searches]
    assert found == [
        (AS_IT_IS, 10, 11, None),
        (CONVERTED, 0, None, "it failed"),
        (SAVING, 20, 21, None),
    ]


def printed(result):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(*tables.of(result), sep="\n")
    return capture.get()


def test_tables_fit_into_80_columns_and_tell_what_failed():
    facts = {"model": "a_model_with_a_name_that_is_rather_long", "parameters": 123456789}
    facts |= {"dtype": "mixed_bfloat16", "inputs": {"a": [64, 128, 128, 128, 4]}}
    good = {"training_ms": 12345.67, "inference_ms": 1234.56, "peak_bytes": 54321 * MIB}
    ratios = dict.fromkeys(good, 1.0)
    why = "it does not run on random numbers: " + "a long sentence of another program " * 4
    rows = [
        {"variant": variant, "jit": jit, "error": None, "notes": [], "ratios": ratios, **good}
        for jit in (False, True)
        for variant in VARIANTS
    ]
    rows[4] |= {"error": why, "ratios": {}} | dict.fromkeys(good)
    rows[5] |= {"error": why, "ratios": {}} | dict.fromkeys(good)
    searches = [
        {"variant": variant, "limit_bytes": 8 * 2**30, "batch_size": size, "too_large": size + 1}
        | {"peaks": {size: 8000 * MIB} if size else {1: 9000 * MIB}, "note": note}
        for variant, size, note in zip(VARIANTS, (12, 0, 24), (None, None, "why"), strict=True)
    ]
    result = {"facts": facts | {"optimizer": "SGD"}, "repeats": 10, "rows": rows}
    text = printed(result | {"largest_batches": searches})
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert f"converted, jit; converted, save_memory, jit: {why.strip()}" in words
    assert "converted, save_memory 12345.7 1.00 1234.6 1.00 54321 1.00" in words
    assert "converted, jit - - - - - -" in words
    assert "In 8 GB:" in words and "as it is 12 1.00 8000 13" in words
    assert "converted none - - 1" in words and "converted, save_memory 24 2.00 8000 25" in words


@pytest.mark.slow
def test_every_row_of_a_model_is_measured(saved, tmp_path, capsys):
    path = tmp_path / "bench.json"
    options = ["--batch-size", "2", "--image-size", "12", "--repeats", "2", "--json", str(path)]
    assert tfgn_cli.main(["bench", saved, *options]) == 0
    result = json.loads(path.read_text())
    assert result["facts"]["inputs"] == {"images": [2, 12, 12, 3]}
    assert result["facts"]["optimizer"] == "SGD" and result["environment"]["fused"] is True
    rows = {(row["variant"], row["jit"]): row for row in result["rows"]}
    assert list(rows) == [(variant, jit) for jit in (False, True) for variant in VARIANTS]
    first = result["rows"][0]
    for row in result["rows"]:
        assert row["error"] is None
        for name in ("training_ms", "inference_ms", "peak_bytes"):
            assert row[name] > 0
            assert row["ratios"][name] == pytest.approx(row[name] / first[name])
    words = " ".join(capsys.readouterr().out.split())
    assert f"converted {rows[CONVERTED, False]['training_ms']:.1f}" in words


@pytest.mark.thorough
def test_rows_that_fail_are_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "python_layer.py").write_text(PYTHON_LAYER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    layer = importlib.import_module("python_layer").InPython(name="in_python")
    small(layers=[layer]).save(tmp_path / "in.keras")
    model, path = str(tmp_path / "in.keras"), tmp_path / "bench.json"
    options = ["--batch-size", "1", "--image-size", "8", "--repeats", "1", "--json", str(path)]
    assert tfgn_cli.main(["bench", model, *options, "--import", "python_layer"]) == 0
    for row in json.loads(path.read_text())["rows"]:
        assert (row["error"] is not None) == row["jit"]
        assert (row.get("training_ms") is None) == row["jit"]
    words = " ".join(capsys.readouterr().out.split())
    names = ", jit; ".join(VARIANTS)
    assert words.endswith(f"{names}, jit: XLA cannot compile PyFunc")
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(["bench", model, *options])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.count("\n") == 1
    assert "--import" in error


@pytest.mark.slow
def test_ctrl_c_ends_the_processes(saved):
    command = "import sys, tfgn_cli; sys.exit(tfgn_cli.main(sys.argv[1:]))"
    options = [saved, "--batch-size", "2", "--image-size", "8", "--repeats", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, "bench", *options], stderr=subprocess.PIPE, text=True
    )
    workers = f"/proc/{process.pid}/task/{process.pid}/children"
    deadline = time.monotonic() + 60
    children = []
    while not children:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
        with open(workers) as file:
            children = file.read().split()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "\ntfgn: interrupted; nothing new is kept\n"
    assert not any(os.path.exists(f"/proc/{child}") for child in children)
