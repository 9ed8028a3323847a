"""`tfgn export`."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfgn_base.names import FORMATS

from ._common import fail

if TYPE_CHECKING:
    import numpy as np
    from tensorflow_groupnorm._export import Exported


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tfgn export` to the subparsers `commands`."""
    parser = commands.add_parser(
        "export",
        help="export a saved model for serving",
        description="Exports a Keras model for serving, with its standardized kernels as "
        "constants, and compares the export with the model on a batch of random numbers.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .keras file")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder or file")
    parser.add_argument(
        "--portable",
        action="store_true",
        help="use stock ops, so that the export runs without this package",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)}; the last two need --portable (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="DIFFERENCE",
        help="largest accepted difference from the model, relative to the largest output "
        "(default: 1e-4; float64: 1e-6, float16: 1e-2, bfloat16: 5e-2)",
    )
    parser.add_argument(
        "--example",
        type=Path,
        metavar="FILE",
        help="batch to compare on instead of random numbers: an .npy file, or an .npz file with "
        "one array per input, under its name. Needed for string inputs",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    parser.set_defaults(command=lambda args: _run(args, parser))


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if not args.model.is_file():
        parser.error(f"argument MODEL: there is no file {args.model}")
    if args.format != "saved_model" and not args.portable:
        parser.error(
            f"argument --format: {args.format} needs --portable, because its runtimes lack the "
            "fused ops"
        )
    if args.out.exists() and not args.overwrite:
        parser.error(f"argument OUT: {args.out} exists already; --overwrite replaces it")
    if args.tolerance is not None and not args.tolerance >= 0:
        parser.error(f"argument --tolerance: expected a number >= 0, received {args.tolerance}")
    arrays = None if args.example is None else _read_example(args.example, parser)

    import keras
    from tensorflow_groupnorm import ExportError, export
    from tensorflow_groupnorm._export.check import example_of
    from tensorflow_groupnorm._export.errors import first_line
    from tensorflow_groupnorm._export.model import named_signature

    print(f"loading {args.model}", flush=True)
    try:
        model = keras.saving.load_model(args.model, compile=False)
    except (TypeError, ValueError, OSError) as error:
        return fail(
            f"{args.model} does not load: {first_line(error)} (a model with layers of your own is "
            "exported from Python, with tensorflow_groupnorm.export)"
        )
    print(f"exporting to {args.format}", flush=True)
    try:
        exported = export(
            model,
            args.out,
            portable=args.portable,
            format=args.format,
            example=None if arrays is None else example_of(named_signature(model), arrays),
            tolerance=args.tolerance,
            overwrite=args.overwrite,
        )
    except (ExportError, OSError) as error:
        return fail(str(error))
    print(_summary(exported, "the example" if args.example else "a random batch"))
    return 0


def _read_example(
    path: Path, parser: argparse.ArgumentParser
) -> np.ndarray | dict[str, np.ndarray]:
    """Returns the array of an .npy file, or the arrays of an .npz file by their names."""
    if not path.is_file():
        parser.error(f"argument --example: there is no file {path}")
    if path.suffix not in (".npy", ".npz"):
        parser.error(f"argument --example: expected an .npy or .npz file, received {path}")
    import numpy as np

    try:
        content = np.load(path, allow_pickle=False)
        return content if path.suffix == ".npy" else dict(content)
    except (EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error)
        if "allow_pickle" in reason:
            reason = "it holds Python objects; store strings with np.array(texts, dtype=str)"
        parser.error(f"argument --example: {path} cannot be read: {reason}")


def _summary(exported: Exported, batch: str) -> str:
    needs = ", ".join(exported.custom_ops)
    checked = "not checked"
    if exported.difference is not None:
        checked = f"largest difference from the model on {batch}: {exported.difference:.1e}"
    return (
        f"wrote {exported.path}\n"
        f"custom ops: {f'{needs} (needs tensorflow-groupnorm)' if needs else 'none'}\n{checked}"
    )
