"""The C++ program of the section `export` of the benchmarks."""

import shutil
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from paths import ROOT

from benchmarks import inputs
from benchmarks.cases import Inference
from benchmarks.export import files, program
from benchmarks.export.contenders import FUSED_CPP, NETWORKS
from benchmarks.frameworks import Elsewhere, tensorflow_cpp
from benchmarks.sections import Entry
from benchmarks.worker import Worker

CASE = Inference("unet", 2)
ENTRY = Entry(FUSED_CPP, CASE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the files of a run."""
    monkeypatch.setenv(files.VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def saved_model(folder, monkeypatch):
    """A small model with the inputs of the U-Net, in place of it."""
    images, time = (
        keras.Input(shape, CASE.batch, name=name)
        for name, shape in NETWORKS[CASE.network].inputs.items()
    )
    scale = keras.layers.Dense(3)(time)
    y = tfgn.layers.GroupNormalization(3)(images, scale=scale, shift=scale)
    model = keras.Model([images, time], [y, scale])
    specs = [tf.TensorSpec(tensor.shape, name=tensor.name) for tensor in model.inputs]
    path = tfgn.export(model, folder / "model", input_signature=[specs]).path
    monkeypatch.setattr(files, "path", lambda *_: path)
    return path


@pytest.fixture
def built(monkeypatch):
    """The program, not optimized, which would take longer."""
    # Kept, so that a second run compiles only what changed.
    path = program.build(ROOT / "build" / "benchmarks-cpp", "-DCMAKE_BUILD_TYPE=Debug")
    monkeypatch.setattr(tensorflow_cpp, "_program", lambda: path)
    return path


@pytest.mark.compiles
@pytest.mark.thorough
def test_program_runs_a_saved_model_as_python_does(built, saved_model):
    arrays = inputs.draw(CASE, seed=1)
    given = tensorflow_cpp.load(CASE, arrays)
    process = program.Program(built, saved_model, tfgn.plugin_path(), 2)
    assert process.write(given) > 0
    signature = tf.saved_model.load(saved_model).signatures["serving_default"]
    for name, y in signature(**{name: tf.constant(x) for name, x in arrays.items()}).items():
        actual = np.fromfile(given / name, "float32").reshape(y.shape)
        np.testing.assert_array_equal(actual, y)

    worker = Worker(tensorflow_cpp)
    assert worker.prepare([ENTRY]) == {}
    start = time.perf_counter_ns()
    calls = worker.turn(ENTRY)
    assert 0 < sum(calls) < time.perf_counter_ns() - start

    (given / "time").write_bytes(b"123")
    other = program.Program(built, saved_model, tfgn.plugin_path(), 2)
    with pytest.raises(RuntimeError, match="/time must have 8 bytes$"):
        other.time(given)
    with pytest.raises(RuntimeError, match="no_library.so: cannot open shared object"):
        program.Program(built, saved_model, "no_library.so", 2)


@pytest.mark.compiles
@pytest.mark.usefixtures("saved_model")
def test_without_a_compiler_the_row_says_so(tmp_path, monkeypatch):
    tools = {name: shutil.which(name) for name in ("cmake", "ninja")}
    monkeypatch.setattr(program, "_tool", tools.get)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    reason = "the C++ program cannot be built: No CMAKE_CXX_COMPILER could be found."
    assert Worker(tensorflow_cpp).prepare([ENTRY]) == {ENTRY: f"RuntimeError: {reason}"}


@pytest.mark.usefixtures("saved_model")
def test_without_cmake_the_row_says_so(monkeypatch):
    monkeypatch.setattr(program, "_tool", {}.get)
    (reason,) = Worker(tensorflow_cpp).prepare([ENTRY]).values()
    assert reason.endswith("there is no CMake (pip install cmake)")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("CMake Error at a/CMakeLists.txt:4 (project):\n  No compiler.\n\n", "No compiler."),
        ("-- Found\nCMake Error: CMAKE_MAKE_PROGRAM is not set.", "CMAKE_MAKE_PROGRAM is not set."),
        ("[1/2]\na.cc:3:1: error: expected ';'\n x\nninja: stopped", "error: expected ';'"),
        ("ninja: no such file\n", "ninja: no such file"),
    ],
)
def test_reason_of_a_build_that_fails(output, reason):
    assert program._reason(output) == reason


def test_time_elsewhere_is_that_of_the_other_process():
    class Framework:
        load = staticmethod(lambda case, arrays: arrays)
        function = staticmethod(lambda contender, case: lambda arrays: Elsewhere(10**9))

    worker = Worker(Framework)
    assert worker.prepare([ENTRY]) == {}
    assert worker.turn(ENTRY) == [10**9]
