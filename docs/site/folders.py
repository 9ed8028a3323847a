"""A Sphinx extension: shows links to folders of the repository, which have no page, as text."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx


def _resolve(app: Sphinx, document: nodes.document):
    page = Path(document["source"])
    for node in list(document.findall(pending_xref)):
        if node["reftype"] == "myst" and (page.parent / node["reftarget"]).is_dir():
            node.replace_self(node.children)


def setup(app: Sphinx):
    """Is called by Sphinx."""
    app.connect("doctree-read", _resolve)
    return {"parallel_read_safe": True}
