"""A Sphinx extension: the directive `tfgn-help`, what `tfgn COMMAND --help` prints."""

from __future__ import annotations

import argparse
import os

import tfgn_cli
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Returns the parsers of the subcommands, by name."""
    for action in tfgn_cli._parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise LookupError("tfgn has no subcommands")


class Help(Directive):
    """The help of the subcommand in the argument."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Is called by docutils."""
        name = self.arguments[0]
        self.state.document.settings.env.metadata.setdefault("tfgn-help", {})[name] = True
        if name not in parsers():
            raise self.error(f"tfgn has no subcommand {name}")
        os.environ["COLUMNS"] = "76"
        text = parsers()[name].format_help()
        return [nodes.literal_block(text, text, language="text")]


def _check(app: Sphinx, environment: BuildEnvironment):
    for name in sorted(set(parsers()) - set(environment.metadata.get("tfgn-help", {}))):
        LOGGER.warning("tfgn %s is not in docs/api/command.md", name, type="tfgn")


def setup(app: Sphinx):
    """Is called by Sphinx."""
    app.add_directive("tfgn-help", Help)
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": False}
