"""A Sphinx extension: renders the docstrings, which are Markdown, and misses no public name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import tensorflow_groupnorm as tfgn
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.inspect import stringify_signature

MODULES = (tfgn, tfgn.layers, tfgn.models, tfgn.stock)
SECTION = re.compile(r"(Args|Attributes|Call arguments|Raises|References?|Returns|Yields):")
LOGGER = logging.getLogger(__name__)


def public_names() -> Iterator[str]:
    """Returns the full name of every public function and class, and of every raw op."""
    for module in MODULES:
        for name in module.__all__:
            if not inspect.ismodule(getattr(module, name)) and name != "raw_ops":
                yield f"{module.__name__}.{name}"
    for name in dir(tfgn.raw_ops):
        yield f"tensorflow_groupnorm.raw_ops.{name}"


PUBLIC = set(public_names())
CLASSES = {name.rpartition(".")[2]: name for name in PUBLIC if name.rpartition(".")[2][0].isupper()}


def to_rst(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring in Markdown as reStructuredText.

    Knows what the docstrings use: inline code, links, tables, and indented code.
    """
    result: list[str] = []
    # A paragraph, list item, table or example at a time: inline code may go over several lines.
    for block in re.split(r"(\n\s*\n)", "\n".join(lines)):
        first = block.lstrip()
        if not first:
            result.append(block)
        elif first.startswith("|"):
            result.append(_table(block.splitlines()))
        elif first.startswith(">>>"):
            result.append(block)
        elif block.startswith("    ") and not _in_section("".join(result)):
            result.append(f"::\n\n{block}")
        else:
            result.append(_inline(block))
    return "".join(result).splitlines()


def _in_section(text: str) -> bool:
    """Whether the last line without indentation opens a section, such as `Args:`."""
    headings = re.findall(r"^\S.*$", text, re.M)
    return bool(headings) and SECTION.fullmatch(headings[-1]) is not None


def _inline(text: str) -> str:
    text = re.sub(r"`([^`]+)`(\w?)", _code, text)
    return re.sub(r"\[([^\]]+)\]\((https?://[^)]+)\)", _link, text)


def _link(match: re.Match[str]) -> str:
    return f"`{' '.join(match[1].split())} <{match[2]}>`__"


def _code(match: re.Match[str]) -> str:
    """A name of this package as a link, anything else as code."""
    text = " ".join(match[1].split())
    name = "tensorflow_groupnorm." + text.removeprefix("tensorflow_groupnorm.").removeprefix(
        "tfgn."
    )
    is_qualified = text.startswith(("tensorflow_groupnorm.", "tfgn."))
    target = name if is_qualified and name in PUBLIC else CLASSES.get(text)
    code = f":py:obj:`{text} <{target}>`" if target else f"``{text}``"
    return rf"{code}\ {match[2]}" if match[2] else code


def _table(rows: list[str]) -> str:
    indentation = " " * (len(rows[0]) - len(rows[0].lstrip()))
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            lines += [f"   {'  ' if i else '* '}- {_inline(cell)}" for i, cell in enumerate(cells)]
    return "\n".join(indentation + line for line in lines)


def _of_raw_op(lines: list[str]) -> list[str]:
    """Makes a list of the results in a docstring that TensorFlow has generated."""
    text = "\n".join(lines)
    arguments, heading, results = text.partition("Returns:\n")
    results = re.sub(r"\n {4,}(?=\S)", " ", results)
    results = re.sub(r"(?m)^ {2}(\w+): (?=A )", r"  - `\1`: ", results)
    return (arguments + heading + results).splitlines()


def _process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]):
    if not any(lines) and what in ("function", "class", "exception"):
        LOGGER.warning("%s has no docstring", name, type="tfgn")
    lines[:] = to_rst(_of_raw_op(lines) if ".raw_ops." in name else lines)


def _signature(
    app: Sphinx, what: str, name: str, obj: type, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """The arguments of a class are those of its constructor; Keras hides them behind `__new__`."""
    if what != "class" or "__init__" not in vars(obj):
        return None
    found = stringify_signature(
        inspect.signature(obj.__init__), show_annotation=False, show_return_annotation=False
    )
    return re.sub(r"^\(self, ", "(", found), ""


def _check(app: Sphinx, environment: BuildEnvironment):
    documented = set(environment.get_domain("py").objects)
    for name in sorted(set(public_names()) - documented):
        LOGGER.warning("%s is public and not in docs/api", name, type="tfgn")


def setup(app: Sphinx):
    """Is called by Sphinx."""
    # Before napoleon, which makes fields of the sections.
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}
