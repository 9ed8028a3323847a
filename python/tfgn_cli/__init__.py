"""The `tfgn` command, started without the `__init__` of its package.

`tensorflow_groupnorm/__init__.py` imports TensorFlow, which takes seconds, and raises where the
fused ops are required and off. `tensorflow_groupnorm.cli` is to answer `--help` and bad input at
once and to explain the rest, and it imports what it needs of the package module by module.
"""

import importlib.util
import sys


def main():
    """Runs the command with `sys.argv[1:]`.

    Returns:
        The exit code, see `tensorflow_groupnorm.cli.main`.
    """
    spec = importlib.util.find_spec("tensorflow_groupnorm")
    # A module in sys.modules counts as imported: its __init__ is not executed any more.
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    from tensorflow_groupnorm import cli

    return cli.main()
