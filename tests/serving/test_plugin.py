"""The op library where TensorFlow loads it by itself: `tfgn install-plugin`, `plugin_path`."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import export_models
import numpy as np
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
import tfgn_cli
from tensorflow_groupnorm import _library
from tfgn_base import plugin

pytestmark = pytest.mark.slow

TFGN = "import sys, tfgn_cli; sys.exit(tfgn_cli.main())"
SAVED_MODEL_CLI = "from tensorflow.python.tools.saved_model_cli import main; main()"
IMPORT = """
import sys, numpy as np, tensorflow as tf
import tensorflow_groupnorm as tfgn
x = tf.Variable(np.load(sys.argv[1]))
with tf.GradientTape() as tape:
    y = tfgn.group_norm(x, groups=3, activation="relu")
assert tape.gradient(y, x).shape == x.shape
"""


@pytest.fixture
def environment(tmp_path):
    """Runs code in a virtual environment of its own, with the packages of this one."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site_packages,) = (folder / "lib").glob("python*/site-packages")
    paths = [path for path in sys.path if Path(path).is_dir() and Path(path).name != "bin"]
    # With what an editable install has there to find its modules.
    hooks = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (site_packages / "borrowed.pth").write_text("\n".join([hooks, *paths]))

    def run(code, *arguments, **variables):
        command = [folder / "bin" / "python", "-c", code, *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | variables
        )

    run.site_packages = site_packages
    return run


def test_stock_tools_run_fused_models_with_the_plugin(environment, tmp_path):
    model = export_models.built(small_resnet.build)
    path = tfgn.export(model, tmp_path / "model").path
    loaded = tf.saved_model.load(path)
    (name,) = loaded.signatures["serving_default"].structured_input_signature[1]
    np.save(tmp_path / "x.npy", small_resnet.IMAGES)
    serve = [
        *("run", "--dir", path, "--tag_set", "serve", "--signature_def", "serving_default"),
        *("--inputs", f"{name}={tmp_path / 'x.npy'}", "--outdir", tmp_path),
    ]
    plugins = environment.site_packages / "tensorflow-plugins"

    installed = environment(TFGN, "install-plugin")
    assert installed.returncode == 0, installed.stderr
    assert f"TensorFlow {tf.__version__} loads {plugins}" in installed.stdout
    assert sorted(os.listdir(plugins)) == ["_tfgn_ops.so", "tensorflow_groupnorm.json"]

    served = environment(SAVED_MODEL_CLI, *serve)
    assert served.returncode == 0, served.stderr
    np.testing.assert_allclose(np.load(tmp_path / "output_0.npy"), model(small_resnet.IMAGES), 1e-4)
    # The package recognizes its library in the copy.
    imported = environment(IMPORT, tmp_path / "x.npy", TFGN_REQUIRE_FUSED="1")
    assert imported.returncode == 0, imported.stderr

    # As if TensorFlow had been upgraded: its import fails, and ours say why.
    (plugins / "_tfgn_ops.so").write_text("no library")
    record = plugins / "tensorflow_groupnorm.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"tensorflow": "2.1.0"}))
    assert environment("import tensorflow").returncode != 0
    explained = environment(TFGN, "info")
    assert explained.returncode == 1
    assert explained.stderr == (
        f"tfgn: {plugins / '_tfgn_ops.so'} is for TensorFlow 2.1, and TensorFlow {tf.__version__} "
        "cannot be imported with it: run `tfgn install-plugin --remove`.\n"
    )
    removed = environment(TFGN, "install-plugin", "--remove")
    assert removed.returncode == 0 and f"removed {plugins}" in removed.stdout
    assert not plugins.exists()


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin, "site_packages", lambda: tmp_path)
    return tmp_path


def installed_by_hand(site_packages, tensorflow=tf.__version__):
    folder = site_packages / "tensorflow-plugins"
    folder.mkdir()
    (folder / "_tfgn_ops.so").write_text("old")
    (folder / "tensorflow_groupnorm.json").write_text(json.dumps({"tensorflow": tensorflow}))
    return folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("step", ["_FIND", "_TRY"])
@pytest.mark.parametrize("before", [False, True])
def test_library_that_fails_is_not_installed(step, before, site_packages, monkeypatch, capsys):
    folder = installed_by_hand(site_packages) if before else site_packages
    expected = contents(folder)
    found = f"print({json.dumps([__file__, '2.21.0'])!r})"
    monkeypatch.setattr(plugin, "_FIND", found)
    monkeypatch.setattr(plugin, step, "raise ImportError('built for another.')")
    assert tfgn_cli.main(["install-plugin"]) == 1
    sentence = "tfgn: The op library does not load and was not installed: built for another.\n"
    assert capsys.readouterr().err == sentence
    assert contents(folder) == expected


def test_old_copy_is_out_of_sight_while_the_library_is_tried(site_packages, monkeypatch):
    folder = installed_by_hand(site_packages)
    look = f"import os; assert not [f for f in os.listdir({str(folder)!r}) if f.endswith('.so')]"
    found = f"print({json.dumps([__file__, '2.21.0'])!r})"
    monkeypatch.setattr(plugin, "_FIND", f"{look}\n{found}")
    monkeypatch.setattr(plugin, "_TRY", "")
    assert plugin.install() == plugin.Plugin(folder / "_tfgn_ops.so", "2.21.0")
    assert contents(folder)["_tfgn_ops.so"] == Path(__file__).read_text()
    assert len(contents(folder)) == 2


def test_op_that_tensorflow_does_not_know_is_noticed():
    exec(plugin._TRY)
    with pytest.raises(tf.errors.NotFoundError, match="Op type not registered 'NoGroupNorm'"):
        exec(plugin._TRY.replace("GroupNorm", "NoGroupNorm"))


def test_folder_that_cannot_be_written_is_one_sentence(site_packages, monkeypatch, capsys):
    (site_packages / "tensorflow-plugins").write_text("a file")
    monkeypatch.setattr(plugin, "_FIND", f"print({json.dumps([__file__, '2.21.0'])!r})")
    assert tfgn_cli.main(["install-plugin"]) == 1
    error = capsys.readouterr().err
    assert "The op library cannot be copied to" in error and error.count("\n") == 1


def test_plugins_of_others_are_left_alone(site_packages, capsys):
    folder = installed_by_hand(site_packages)
    (folder / "other.so").touch()
    assert tfgn_cli.main(["install-plugin", "--remove"]) == 0
    assert list(contents(folder)) == ["other.so"]
    capsys.readouterr()
    assert tfgn_cli.main(["install-plugin", "--remove"]) == 0
    assert capsys.readouterr().out == "there is no plugin to remove\n"


@pytest.mark.parametrize(
    ("tensorflow", "wrong"), [(tf.__version__, False), ("2.1.0", True), (None, False)]
)
def test_plugin_for_another_tensorflow_is_noticed(tensorflow, wrong, site_packages):
    installed_by_hand(site_packages, tensorflow)
    problem = plugin.installed().problem()
    assert bool(problem) == wrong
    assert not wrong or "is for TensorFlow 2.1, and TensorFlow" in problem


def test_plugin_path_is_the_library_that_is_loaded():
    assert Path(tfgn.plugin_path()) in _library._mapped_files()


def test_plugin_path_of_another_tensorflow_is_an_error(monkeypatch):
    monkeypatch.setattr(_library, "load_error", lambda: "was built for TensorFlow 2.1.")
    with pytest.raises(ImportError, match="was built for TensorFlow 2.1"):
        tfgn.plugin_path()


FINE_TUNE = """
import sys, numpy as np, tensorflow as tf
import tensorflow_groupnorm
model = tf.saved_model.load(sys.argv[1])
data = np.load(sys.argv[2])
loss_of = tf.nn.sparse_softmax_cross_entropy_with_logits
for step in range(3):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(loss_of(data["labels"], model.serve(data["images"])))
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign_sub(0.1 * gradient)
    print(loss.numpy())
"""
WITHOUT_THE_PACKAGE = """
import sys, numpy as np, tensorflow as tf
try:
    tf.saved_model.load(sys.argv[1])
except Exception as error:
    print(error)
tf.load_op_library(sys.argv[3])
model = tf.saved_model.load(sys.argv[1])
with tf.GradientTape() as tape:
    y = model.serve(np.load(sys.argv[2])["images"])
tape.gradient(y, model.trainable_variables)
"""


@pytest.fixture
def saved_to_train(tmp_path):
    """A SavedModel of Keras' own export, which keeps the variables, and data for it."""
    small_resnet.build().export(tmp_path / "model", verbose=False)
    data = tmp_path / "data.npz"
    np.savez(data, images=small_resnet.IMAGES, labels=small_resnet.LABELS)
    return str(tmp_path / "model"), str(data)


def run(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_saved_model_can_be_trained_after_the_import(saved_to_train):
    result = run(FINE_TUNE, *saved_to_train)
    assert result.returncode == 0, result.stderr
    losses = [float(line) for line in result.stdout.split()]
    assert losses[0] > losses[1] > losses[2]


def test_what_tensorflow_says_without_the_import(saved_to_train):
    # As docs/export.md has it, with what to import.
    result = run(WITHOUT_THE_PACKAGE, *saved_to_train, tfgn.plugin_path())
    assert re.match("Op type not registered '(GroupNorm|StandardizeWeights)'", result.stdout)
    assert result.returncode != 0
    assert re.search("LookupError: No gradient defined for operation.*GroupNorm", result.stderr)
