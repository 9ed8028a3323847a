"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import html
import io

import matplotlib
from markdown_it import MarkdownIt
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
figure svg { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: .75rem; overflow-x: auto; font-size: .85rem; }
code { font-size: .9em; }
p code, li code { white-space: nowrap; }
@page { margin: 15mm; }
@media print {
  body { max-width: none; margin: 0; padding: 0; font-size: 10pt; }
  a { color: inherit; }
  h2 { margin-top: 1.5rem; }
  .table { overflow: visible; }
  th, td { padding: .05rem .35rem; font-size: 8.5pt; line-height: 1.4; }
  thead { display: table-header-group; }
  td { white-space: normal; } /* A page that is too wide is printed smaller. */
  tr, figure { break-inside: avoid; }
  tbody tr:nth-child(-n+6) { break-after: avoid; }
  pre { white-space: pre-wrap; font-size: 7.5pt; line-height: 1.25; }
}
"""


def render(markdown: str, plots: dict[str, tuple[str, Figure]]) -> str:
    """Returns the page.

    Args:
        markdown: the report, with each plot as the image `NAME.png`.
        plots: captions and figures by name, drawn into the page as SVG.

    Returns:
        HTML without references to other files.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    body = parser.render(markdown)
    for name, (caption, figure) in plots.items():
        image = f'<p><img src="{name}.png" alt="{html.escape(caption)}" /></p>'
        label = html.escape(caption)
        drawing = f'<figure role="img" aria-label="{label}">{_svg(name, figure)}</figure>'
        body = body.replace(image, drawing)
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


def _svg(name: str, figure: Figure) -> str:
    # The salt makes the ids of each plot its own: they share a page.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
