"""`tfgn install-plugin`."""

from __future__ import annotations

import argparse
from typing import Any

from tfgn_base import plugin

from ._common import fail


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tfgn install-plugin` to the subparsers `commands`."""
    parser = commands.add_parser(
        "install-plugin",
        help="install the ops as a TensorFlow plugin, for stock tools",
        description="Copies the op library to site-packages/tensorflow-plugins, from where "
        "TensorFlow loads it at every import. Tools such as saved_model_cli can then run models "
        "with fused ops. Remove the copy before you upgrade TensorFlow to another minor version, "
        "because TensorFlow cannot be imported with it, and before you uninstall "
        "tensorflow-groupnorm.",
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove the copy; this also works if TensorFlow cannot be imported",
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Installs or removes the plugin; returns the exit code."""
    try:
        if args.remove:
            removed = plugin.remove()
            print(f"removed {removed}" if removed else "there is no plugin to remove")
            return 0
        print("testing the op library in TensorFlow", flush=True)
        copy = plugin.install()
    except (plugin.PluginError, OSError) as error:
        return fail(str(error))
    print(f"TensorFlow {copy.tensorflow} loads {copy.path} at every import")
    print("remove it before you upgrade TensorFlow: tfgn install-plugin --remove")
    return 0
