"""The code of the pages: every Python block runs as written, every command is one that there is."""

import inspect
import os
import re
import shlex

import bit_checkpoints
import keras
import numpy as np
import pytest
import tfgn_cli
from paths import ROOT
from small_models import small

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
]

PAGES = {
    os.fspath(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
#: Above a block that cannot run in a test, with the reason.
NOT_RUN = r"<!-- not run: [^>]+ -->\n"
FENCE = re.compile(rf"(?P<mark>{NOT_RUN})?```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)


SLOW = ("docs/export.md", "docs/models.md", "docs/privacy.md")


def blocks(page, language):
    """The blocks of a page in a language, without those that are marked as not run."""
    found = FENCE.finditer(PAGES[page])
    return [block["code"] for block in found if block["language"] == language and not block["mark"]]


def with_blocks(language):
    return [page for page in PAGES if blocks(page, language)]


def export(names):
    assert names["exported"].custom_ops == () and names["exported"].difference < 1e-6
    images = np.ones([2, 32, 32, 3], np.float32)
    expected = keras.saving.load_model("model.keras")(images)
    np.testing.assert_allclose(names["y"], expected, 1e-4, 1e-5)
    assert all(gradient is not None for gradient in names["gradients"])


def privacy(names):
    assert [g.shape[0] for g in names["gradients"]] == [8] * len(names["variables"])
    expected = names["gradients_of"]((names["images"][3], names["labels"][3]))
    for actual, gradient in zip(names["gradients"], expected, strict=True):
        np.testing.assert_allclose(actual[3], gradient, 1e-3, 1e-5)


def migration(names):
    kinds = {type(layer).__name__ for layer in names["model"].layers}
    assert "GroupNormalization" in kinds and "BatchNormalization" not in kinds


#: What else has to hold after the blocks of a page.
CHECKS = {"docs/export.md": export, "docs/privacy.md": privacy, "docs/migration.md": migration}


@pytest.fixture
def small_networks(monkeypatch):
    """Puts a small network in place of those of `keras.applications`, which take seconds to build.

    Their arguments are checked.
    """

    def stand_in(signature):
        def build(*args, **kwargs):
            signature.bind(*args, **kwargs)
            return small(size=32)

        return build

    for name, function in inspect.getmembers(keras.applications, inspect.isfunction):
        monkeypatch.setattr(keras.applications, name, stand_in(inspect.signature(function)))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW))
        for page in with_blocks("python")
    ],
)
def test_python_runs_as_written(page, tmp_path, monkeypatch, small_networks):
    monkeypatch.chdir(tmp_path)
    if "BiT-M-R50x1.npz" in PAGES[page]:
        np.savez("BiT-M-R50x1.npz", **bit_checkpoints.bit_arrays())
    names = {}
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), names)
    CHECKS.get(page, lambda names: None)(names)


def test_every_block_is_of_a_kind_that_is_checked():
    languages = {block["language"] for text in PAGES.values() for block in FENCE.finditer(text)}
    # Text and "" are output. Sphinx' own blocks are fenced by colons.
    assert languages <= {"python", "sh", "text", ""}


def commands(program):
    """The command lines of all pages that start with a program, as words."""
    for page in with_blocks("sh"):
        for code in blocks(page, "sh"):
            for line in re.sub(r"\\\n", " ", code).splitlines():
                if line.startswith(f"{program} "):
                    words = shlex.split(line, comments=True)
                    yield pytest.param(words[1:], id=f"{page}: {shlex.join(words)}")


@pytest.mark.parametrize("words", [*commands("tfgn")])
def test_command_and_its_options_exist(words):
    args = tfgn_cli._parser().parse_args(words)
    assert callable(args.command)


@pytest.mark.parametrize("words", [*commands("./dev")])
def test_command_of_the_script_exists(words):
    assert f"\n  {words[0]})\n" in (ROOT / "dev").read_text()
    if words[0] == "study":
        tfgn_cli._parser().parse_args(words)


@pytest.mark.parametrize("page", with_blocks("sh"))
def test_files_in_commands_exist(page):
    for code in blocks(page, "sh"):
        for name in re.findall(r"(?<![\w/])(?:examples|benchmarks)/[\w./]+", code):
            assert (ROOT / name).exists(), name
        for module in re.findall(r"-m (benchmarks[\w.]*)", code):
            path = ROOT / module.replace(".", "/")
            assert path.exists() or path.with_suffix(".py").exists(), module
