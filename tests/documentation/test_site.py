"""The site builds without a warning, and its checks find what is missing."""

import importlib
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tensorflow_groupnorm as tfgn
from paths import ROOT

SITE = ROOT / "docs" / "site"


@pytest.fixture
def extension(monkeypatch):
    """Imports an extension of docs/site; its warnings go to `extension.warnings`."""

    def load(name):
        monkeypatch.syspath_prepend(str(SITE))
        module = importlib.import_module(name)
        load.warnings = []
        warn = SimpleNamespace(warning=lambda text, *words, **_: load.warnings.append(text % words))
        monkeypatch.setattr(module, "LOGGER", warn, raising=False)
        return module

    return load


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    arguments = ["--fail-on-warning", "--quiet", "--conf-dir", SITE, ROOT, tmp_path]
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    page = (tmp_path / "docs" / "api" / "layers.html").read_text()
    for name in tfgn.layers.__all__:
        assert f'id="tensorflow_groupnorm.layers.{name}"' in page
    # Of a docstring in Markdown: code, a link, and a table.
    assert "`" not in re.sub(r"<(pre|script|style).*?</\1>", "", page, flags=re.DOTALL)
    assert 'href="https://arxiv.org/abs/1803.08494"' in page and "EinsumDense" in page
    assert 'url=docs/index.html"' in (tmp_path / "index.html").read_text()


def test_public_name_without_a_reference_is_found(extension):
    docstrings = extension("docstrings")
    names = set(docstrings.public_names())
    assert {"tensorflow_groupnorm.convert", "tensorflow_groupnorm.raw_ops.GroupNorm"} <= names

    def environment(documented):
        domain = SimpleNamespace(objects=dict.fromkeys(documented))
        return SimpleNamespace(get_domain=lambda _: domain)

    docstrings._check(None, environment(names))
    assert extension.warnings == []
    docstrings._check(None, environment(names - {"tensorflow_groupnorm.fold"}))
    assert extension.warnings == ["tensorflow_groupnorm.fold is public and not in docs/api"]


def test_public_name_without_a_docstring_is_found(extension):
    docstrings = extension("docstrings")
    docstrings._process(None, "function", "tensorflow_groupnorm.f", None, None, [""])
    assert extension.warnings == ["tensorflow_groupnorm.f has no docstring"]


def test_subcommand_without_a_section_is_found(extension):
    commands = extension("commands")
    named = dict.fromkeys(commands.parsers(), True)
    commands._check(None, SimpleNamespace(metadata={"tfgn-help": named}))
    assert extension.warnings == []
    del named["check"]
    commands._check(None, SimpleNamespace(metadata={"tfgn-help": named}))
    assert extension.warnings == ["tfgn check is not in docs/api/command.md"]


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("a `b\n  c` d", "a ``b c`` d"),
        ("`None`s", r"``None``\ s"),
        ("[A\n  B](https://c.org)", "`A B <https://c.org>`__"),
        ("`tfgn.convert`", ":py:obj:`tfgn.convert <tensorflow_groupnorm.convert>`"),
        ("Text:\n\n    code `a`", "Text:\n\n::\n\n    code `a`"),
        ("Args:\n    a: b\n\n    `c`", "Args:\n    a: b\n\n    ``c``"),
        (">>> f(`a`)", ">>> f(`a`)"),
        ("| a |\n|---|\n| `b` |", ".. list-table::\n   :header-rows: 1\n\n   * - a\n   * - ``b``"),
    ],
)
def test_markdown_of_docstrings(markdown, expected, extension):
    assert extension("docstrings").to_rst(markdown.splitlines()) == expected.splitlines()
