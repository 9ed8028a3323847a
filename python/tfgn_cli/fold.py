"""`tfgn fold`."""

from __future__ import annotations

import argparse
from typing import Any

from ._common import fail
from ._model_files import (
    NotSavedError,
    add_paths,
    add_tolerance,
    check_paths,
    check_tolerance,
    import_modules,
    load,
    save,
)
from ._startup import start_tensorflow


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tfgn fold` to the subparsers `commands`."""
    parser = commands.add_parser(
        "fold",
        help="turn a saved model into a plain Keras model",
        description="Replaces the layers of this package in a Keras model by stock layers, whose "
        "kernels are the standardized ones. Compares the result with the model, and saves it: it "
        "loads without this package, and Keras can quantize it.",
    )
    add_paths(parser)
    parser.add_argument(
        "--norm",
        choices=("keras", "none"),
        default="keras",
        help="none keeps the fused GroupNormalization layers (default: %(default)s)",
    )
    add_tolerance(parser)
    parser.set_defaults(command=lambda args: _fold(args, parser))


def _fold(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    check_paths(args, parser)
    check_tolerance(args, parser)
    start_tensorflow()
    import_modules(args)
    from tensorflow_groupnorm import ExportError, fold

    model, failure = load(args.input)
    if model is None:
        return fail(failure)
    norm = None if args.norm == "none" else args.norm
    try:
        save(fold(model, norm, tolerance=args.tolerance), args.output)
    except (ExportError, ValueError) as error:
        return fail(str(error))
    except NotSavedError as reason:
        return fail(f"nothing is written, as {reason}")
    except OSError as error:
        return fail(f"{args.output} cannot be written: {error.strerror or error}")
    loads = "after `import" if norm is None else "without `import"
    print(f"saved {args.output}; it loads {loads} tensorflow_groupnorm`")
    return 0
