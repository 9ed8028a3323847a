"""`tfgn convert`."""

import importlib
import json
import re
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tfgn_cli
from tensorflow_groupnorm.layers import (
    GroupNormalization,
    RecomputedNormalization,
    StandardizedConv2D,
)
from tfgn_base import files

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

OWN_LAYER = """
import keras

@keras.saving.register_keras_serializable("own")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


@pytest.fixture
def saved(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="norm")(x))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="small")
    model.save(tmp_path / "in.keras")
    return tmp_path / "in.keras"


def test_converts_a_file(saved, tmp_path, capsys):
    out, report = tmp_path / "out.keras", tmp_path / "report.json"
    options = ["--group-size", "4", "--weight-standardization", "nfnet", "--report", str(report)]
    assert tfgn_cli.main(["convert", str(saved), str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "Conversion of small: 2 replaced, 1 fused, 1 kept" in printed and str(out) in printed
    model = keras.saving.load_model(out)
    assert isinstance(model.get_layer("norm"), GroupNormalization)
    assert model.get_layer("norm").groups == 2
    assert isinstance(model.get_layer("conv"), StandardizedConv2D)
    assert model.get_layer("conv").variant == "nfnet"
    original = keras.saving.load_model(saved)
    np.testing.assert_array_equal(model.get_layer("conv").kernel, original.get_layer("conv").kernel)
    changes = json.loads(report.read_text())["changes"]
    assert {change["name"] for change in changes} == {"conv", "norm", "relu", "logits"}


def test_options_that_leave_things(saved, tmp_path, capsys):
    out = tmp_path / "out.keras"
    options = ["--weight-standardization", "none", "--no-fuse", "--every-layer", "--groups", "2"]
    assert tfgn_cli.main(["convert", str(saved), str(out), *options]) == 0
    assert "1 replaced, 0 fused, 0 kept" in capsys.readouterr().out
    options = ["--overwrite", "--keep", "conv", "--norm", "none"]
    assert tfgn_cli.main(["convert", str(saved), str(out), *options]) == 0
    assert "0 replaced, 0 fused, 2 kept" in capsys.readouterr().out


def test_save_memory(tmp_path, capsys):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(8, 3)(inputs))
    x = keras.layers.BatchNormalization(name="last")(keras.layers.Conv2D(8, 3, name="conv")(x))
    keras.Model(inputs, x, name="small").save(tmp_path / "in.keras")
    argv = ["convert", str(tmp_path / "in.keras"), str(tmp_path / "out.keras"), "--save-memory"]
    assert tfgn_cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert "4 replaced, 0 fused, 0 kept, 1 paired, 1 not paired" in printed
    assert "RecomputedNormalization with StandardizedConv2D     1 x  norm" in printed
    assert "last: nothing keeps its output for the backward pass" in printed
    pair = keras.saving.load_model(tmp_path / "out.keras").get_layer("norm")
    assert isinstance(pair, RecomputedNormalization)
    assert [layer.name for layer in pair.layers] == ["conv"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["missing.keras", "out.keras"], "argument IN: there is no file missing.keras"),
        (["IN", "out.h5"], "expected a name that ends in .keras"),
        (["IN", "IN"], "exists already; --overwrite replaces it"),
        (["IN", "missing/out.keras"], "argument OUT.keras: there is no folder missing"),
        (["IN", "OUT", "--report", "missing/r.json"], "argument --report: there is no folder"),
        (["IN", "OUT", "--groups", "0"], "`groups` must be a positive integer or -1"),
        (["IN", "OUT", "--groups", "2", "--group-size", "2"], "not allowed with argument"),
        (["IN", "OUT", "--keep", "cnov"], "no layer is named 'cnov'; similar names are 'conv'"),
        (["IN", "OUT", "--weight-standardization", "ws"], "invalid choice: 'ws'"),
    ],
)
def test_bad_input(argv, sentence, saved, tmp_path, capsys):
    places = {"IN": str(saved), "OUT": str(tmp_path / "out.keras")}
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(["convert", *(places.get(word, word) for word in argv)])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "out.keras").exists()


def test_link_is_replaced_and_not_followed(saved, tmp_path, capsys):
    target, link = tmp_path / "target.keras", tmp_path / "out.keras"
    link.symlink_to(target)
    with pytest.raises(SystemExit):
        tfgn_cli.main(["convert", str(saved), str(link)])
    assert f"{link} exists already; --overwrite replaces it" in capsys.readouterr().err
    assert tfgn_cli.main(["convert", str(saved), str(link), "--force"]) == 0
    assert link.is_file() and not link.is_symlink() and not target.exists()


def empty_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other", "")


def lambda_layer(path):
    inputs = keras.Input((4, 4, 8))
    x = keras.layers.BatchNormalization()(inputs)
    keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x)(x)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("in.keras", lambda path: path.write_text("nothing"), "it is no .keras archive"),
        ("in.h5", lambda path: path.write_text("nothing"), "Keras says: Unable to"),
        ("in.keras", empty_zip, "no item named 'config.json'"),
        ("in.keras", lambda_layer, "it holds Python code, in a Lambda layer say, which is not"),
    ],
)
def test_file_that_is_no_model(name, write, reason, tmp_path, capsys):
    write(tmp_path / name)
    assert tfgn_cli.main(["convert", str(tmp_path / name), str(tmp_path / "out.keras")]) == 1
    error = capsys.readouterr().err
    assert f"{name} is not a model that Keras can load: " in error and reason in error
    assert error.count("\n") == 1


def test_loss_of_one_s_own_is_left_behind(saved, tmp_path, capsys):
    model = keras.saving.load_model(saved)
    model.compile("sgd", own_loss)
    model.save(saved)
    out = tmp_path / "out.keras"
    assert tfgn_cli.main(["convert", str(saved), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "without what it was compiled with: name the module that registers its 'own_" in printed
    assert not keras.saving.load_model(out).compiled


def own_loss(targets, outputs):
    return keras.ops.mean((targets - outputs) ** 2)


@pytest.mark.parametrize("unwritable", ["out.keras", "report.json"])
def test_file_that_cannot_be_written(unwritable, saved, tmp_path, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    places = {"out.keras": (keras.Model, "save"), "report.json": (Path, "write_text")}
    monkeypatch.setattr(*places[unwritable], refuse)
    out, report = tmp_path / "out.keras", tmp_path / "report.json"
    assert tfgn_cli.main(["convert", str(saved), str(out), "--report", str(report)]) == 1
    error = capsys.readouterr().err
    assert error == f"tfgn: {tmp_path / unwritable} cannot be written: No space left on device\n"


def test_interrupted_while_it_saves(saved, tmp_path, capsys, monkeypatch):
    def interrupt(self, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save", interrupt)
    before = sorted(tmp_path.iterdir())
    assert tfgn_cli.main(["convert", str(saved), str(tmp_path / "out.keras")]) == 130
    assert "interrupted; nothing new is kept" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_layers_of_one_s_own_need_their_module(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_layers.py").write_text(OWN_LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    own_layers = importlib.import_module("own_layers")
    layers = [own_layers.Twice(), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((4, 4, 8)), *layers])
    model.save(tmp_path / "in.keras")
    # As if this process had not imported it.
    del sys.modules["own_layers"]
    del keras.saving.get_custom_objects()["own>Twice"]
    argv = ["convert", str(tmp_path / "in.keras"), str(tmp_path / "out.keras"), "--groups", "2"]
    assert tfgn_cli.main(argv) == 1
    assert "--import" in capsys.readouterr().err
    assert tfgn_cli.main([*argv, "--import", "own_layers"]) == 0
    assert type(keras.saving.load_model(argv[2]).layers[0]).__name__ == "Twice"
    assert tfgn_cli.main([*argv, "--overwrite", "--import", "no_such_module"]) == 1
    assert "no_such_module" in capsys.readouterr().err


OWN_BLOCK = """
import keras

@keras.saving.register_keras_serializable("own_block")
class Block(keras.layers.Layer):
    def build(self, shape):
        self.norm = keras.layers.BatchNormalization()
        self.norm.build(shape)

    def call(self, x):
        return self.norm(x)
"""


@pytest.fixture
def saved_block(tmp_path, monkeypatch):
    (tmp_path / "own_block.py").write_text(OWN_BLOCK)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_block")
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, own.Block(name="block")(inputs), name="blocks")
    model.save(tmp_path / "in.keras")
    yield tmp_path / "in.keras"
    del sys.modules["own_block"]


def test_what_is_written_was_read_back(saved_block, tmp_path, capsys):
    out = tmp_path / "out.keras"
    options = ["--groups", "2", "--import", "own_block"]
    assert tfgn_cli.main(["convert", str(saved_block), str(out), *options]) == 0
    assert "block/batch_normalization" in capsys.readouterr().out
    assert isinstance(keras.saving.load_model(out).get_layer("block").norm, GroupNormalization)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("forget", "another model was read back: it has other layers"),
        ("zero", "another model was read back: its weight .*gamma has another value"),
        ("fail", "could not be read back: Keras says: no such thing"),
    ],
)
def test_a_file_that_reads_back_as_another_model_is_not_left(
    fault, sentence, saved_block, tmp_path, capsys, monkeypatch
):
    load = keras.saving.load_model

    def faulty(path, **kwargs):
        model = load(path, **kwargs)
        if files.UNFINISHED in str(path):
            if fault == "fail":
                raise ValueError("no such thing")
            if fault == "forget":
                del model.get_layer("block").__dict__["norm"]
            model.get_layer("block").weights[0].assign([0.0] * 4)
        return model

    monkeypatch.setattr(keras.saving, "load_model", faulty)
    out = tmp_path / "out.keras"
    options = ["--groups", "2", "--import", "own_block"]
    assert tfgn_cli.main(["convert", str(saved_block), str(out), *options]) == 1
    assert re.search(sentence, capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.glob("*.keras")) == ["in.keras"]
