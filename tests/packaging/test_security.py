"""What is read from files is data: nothing in it is run."""

import ast
import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
import tfgn_cli
from paths import ROOT

SOURCES = sorted(
    path
    for folder in ("python", "examples", "benchmarks", "build_tools")
    for path in (ROOT / folder).rglob("*.py")
)

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.load", "enable_unsafe_deserialization"}
RISKY_KEYWORDS = {"shell": "True", "safe_mode": "False"}


def risks(source):
    """Lines that run what they read, or could."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = set()
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            names = {name, name.rpartition(".")[2]} & CALLS
            names |= {key for key, bad in RISKY_KEYWORDS.items() if keywords.get(key) == bad}
            if name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
                names.add(name)
        found += [f"line {node.lineno}: {name}" for name in names]
    return found


def test_no_source_runs_what_it_reads():
    assert len(SOURCES) > 100
    assert {path: found for path in SOURCES if (found := risks(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "builtins.exec(text)",
        "subprocess.run(text, shell=True)",
        "keras.saving.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_risks_are_found(source):
    assert len(risks(source)) == 1


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_objects_in_a_checkpoint_stay_packed(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "BiT.npz"
    np.savez(path, **{"resnet/group_norm/gamma": np.array([Bomb(mark)], object)})
    with keras.StatelessScope():
        model = tfgn.models.BiT_R50x1(classes=2)
        with pytest.raises(ValueError, match="BiT.npz is not a .npz file of plain arrays"):
            tfgn.models.load_bit_npz(model, path)
    assert not mark.exists()
    np.load(path, allow_pickle=True)["resnet/group_norm/gamma"]
    assert mark.exists(), "the bomb is none"


def touching(mark):
    """A Keras model whose code leaves a file."""
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Lambda(lambda x, mark=str(mark): [open(mark, "w").close(), x][1])(inputs)
    return keras.Model(inputs, keras.layers.GroupNormalization(2)(x))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("command", ["convert", "export"])
@pytest.mark.filterwarnings("ignore")
def test_code_in_a_model_file_is_not_run(command, suffix, tmp_path, capsys):
    mark, path = tmp_path / "mark", tmp_path / f"model.{suffix}"
    model = touching(mark)
    model.save(path)
    mark.unlink()
    out = tmp_path / ("out.keras" if command == "convert" else "out")
    assert tfgn_cli.main([command, str(path), str(out)]) == 1
    error = capsys.readouterr().err
    assert f"{path} " in error and "Lambda" in error and "Traceback" not in error
    assert not mark.exists() and not out.exists()
    model(np.zeros((1, 8, 8, 4)))
    assert mark.exists(), "the code does nothing"


@pytest.mark.filterwarnings("ignore")
def test_code_inside_our_layers_is_not_run(tmp_path):
    """A layer that makes another one from its config hands the safe mode on."""
    inputs = keras.Input((8, 8, 4))
    wrapped = tfgn.layers.WeightStandardization(keras.layers.Conv2D(4, 3))(inputs)
    keras.Model(inputs, wrapped).save(tmp_path / "model.keras")
    mark = tmp_path / "mark"
    of_lambda = keras.saving.serialize_keras_object(touching(mark).layers[1])
    mark.unlink()
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    (layer,) = (
        entry
        for entry in config["config"]["layers"]
        if entry["class_name"] == "tensorflow_groupnorm.layers.WeightStandardization"
    )
    assert layer["config"]["layer"]["class_name"] == "Conv2D"
    layer["config"]["layer"] = of_lambda
    with zipfile.ZipFile(tmp_path / "changed.keras", "w") as archive:
        for name, data in (files | {"config.json": json.dumps(config)}).items():
            archive.writestr(name, data)
    with pytest.raises((ValueError, TypeError), match="`Lambda` layer.*disallowed by default"):
        keras.saving.load_model(tmp_path / "changed.keras")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '" onload="alert(1)'])
def test_report_shows_names_as_text(name):
    from tfgn_study.report import page

    html = page.render(f"# Study of {name}\n\n{name}\n\n| {name} |\n|---|\n| {name} |\n", {})
    assert "<script" not in html and 'onload="' not in html and "alert(1)" in html
