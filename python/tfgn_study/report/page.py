"""The report as one HTML page without references to other files."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from matplotlib.figure import Figure

_CSS = """
:root { color-scheme: light; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff;
  font: 1rem/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; break-after: avoid; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; padding-bottom: .25rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { text-align: left; }
thead th { border-bottom: 2px solid #888; }
figure { margin: 1.5rem 0; text-align: center; }
figure svg { width: min(100%, 36rem); height: auto; }
pre { background: #f5f5f5; padding: .75rem; overflow-x: auto; font-size: .85rem; }
code { font-size: .9em; }
p code, li code { white-space: nowrap; }
@media screen and (max-width: 40rem) {
  body { margin: 1rem auto; overflow-wrap: anywhere; }
  h1 { font-size: 1.5rem; }
  ul { padding-left: 1.25rem; }
  th, td { padding: .25rem .3rem; font-size: .8rem; white-space: normal; }
  th, td { overflow-wrap: normal; }
  /* The cells of tables of seven columns and more. */
  tr > :nth-last-child(n+7), tr > :nth-last-child(n+7) ~ * {
    padding: .25rem .15rem; font-size: .7rem; }
  pre { white-space: pre-wrap; }
  p code, li code { display: inline-block; white-space: normal; } /* Not broken at a hyphen. */
}
@page { margin: 15mm; }
@media print {
  body { max-width: none; margin: 0; padding: 0; font-size: 10pt; }
  a { color: inherit; }
  h2 { margin-top: 1.5rem; }
  h2 + p { break-after: avoid; } /* It leads to a table. */
  .table { overflow: visible; }
  th, td { padding: .05rem .35rem; font-size: 8.5pt; line-height: 1.4; }
  thead { display: table-header-group; }
  td { white-space: normal; } /* A page that is too wide is printed smaller. */
  tr, figure { break-inside: avoid; }
  figure svg { width: 11cm; max-height: 22cm; }
  tbody tr:nth-child(-n+6) { break-after: avoid; }
  pre { white-space: pre-wrap; font-size: 7.5pt; line-height: 1.25; }
}
"""


def render(markdown: str, drawings: Mapping[str, str]) -> str:
    """Returns the page.

    Args:
        markdown: the report, with each plot as the image `NAME.png` in a paragraph of its own.
        drawings: the plots as SVG, by name.

    Returns:
        HTML without references to other files: an image that is none of the plots is left out, and
        its caption remains.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    for name, rule in _RULES.items():
        parser.add_render_rule(name, rule)
    body = parser.render(markdown, {"drawings": drawings})
    title = html.escape(markdown.partition("\n")[0].lstrip("# "))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_CSS}</style>
</head>
<body>
{body}</body>
</html>
"""


def svg(name: str, figure: Figure) -> str:
    """Returns a figure as an `<svg>` element.

    Args:
        name: name of the plot; another name gives other ids, which several plots on a page need.
        figure: the figure.
    """
    with matplotlib.rc_context({"svg.hashsalt": name}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _table_open(*_: Any) -> str:
    return '<div class="table"><table>\n'


def _table_close(*_: Any) -> str:
    return "</table></div>\n"


def _image(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any
) -> str:
    """Draws a plot in place of its image."""
    caption = html.escape(tokens[index].content)
    drawing = env["drawings"].get(_name(tokens[index]))
    if drawing is None:
        return caption
    return f'<figure role="img" aria-label="{caption}">{drawing}</figure>'


def _paragraph(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any
) -> str:
    """Leaves out the paragraph around a plot: HTML does not allow a figure in a paragraph."""
    inline = tokens[index + (1 if tokens[index].nesting > 0 else -1)]
    children = inline.children or []
    if [child.type for child in children] == ["image"] and _name(children[0]) in env["drawings"]:
        return "" if tokens[index].nesting > 0 else "\n"
    return renderer.renderToken(tokens, index, options, env)


def _name(image: Token) -> str:
    return str(image.attrGet("src")).removesuffix(".png")


_RULES = {
    "table_open": _table_open,
    "table_close": _table_close,
    "image": _image,
    "paragraph_open": _paragraph,
    "paragraph_close": _paragraph,
}
