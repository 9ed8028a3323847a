"""`tfgn install-plugin`."""

from __future__ import annotations

import argparse

from tfgn_base import plugin

from ._common import fail


def add(commands):
    """Makes `tfgn install-plugin` known to the parser's `commands`."""
    parser = commands.add_parser(
        "install-plugin",
        help="let TensorFlow load the ops by itself, for stock tools",
        description="Copies the op library to site-packages/tensorflow-plugins, from where "
        "TensorFlow loads it at every import: tools such as saved_model_cli then run models with "
        "fused ops. Remove it before TensorFlow is upgraded to another minor version, which "
        "cannot be imported with it, and before tensorflow-groupnorm is uninstalled.",
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove the copy; works when TensorFlow cannot be imported, too",
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Installs or removes the plugin; returns the exit code."""
    try:
        if args.remove:
            removed = plugin.remove()
            print(f"removed {removed}" if removed else "there is no plugin to remove")
            return 0
        print("trying the op library in TensorFlow", flush=True)
        copy = plugin.install()
    except (plugin.PluginError, OSError) as error:
        return fail(str(error))
    print(f"TensorFlow {copy.tensorflow} loads {copy.path} at every import")
    print("remove it before you upgrade TensorFlow: tfgn install-plugin --remove")
    return 0
