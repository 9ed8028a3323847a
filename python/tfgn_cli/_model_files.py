"""The files of Keras models that the subcommands read and write."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from tfgn_base.files import whole

from ._common import words

if TYPE_CHECKING:
    import keras

_LOADING_ERRORS = (ValueError, TypeError, OSError, LookupError, AttributeError)


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a command that makes a model from a model."""
    parser.add_argument("input", type=Path, metavar="IN", help="a .keras or .h5 file")
    parser.add_argument("output", type=Path, metavar="OUT.keras", help="output file")
    add_modules(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.keras")
    # The name in version 0.1.0.
    parser.add_argument("--force", dest="overwrite", action="store_true", help=argparse.SUPPRESS)


def add_modules(parser: argparse._ActionsContainer) -> None:
    """Adds `--import`."""
    parser.add_argument(
        "--import",
        dest="modules",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="Python modules to import first, which register custom layers of the model",
    )


def import_modules(args: argparse.Namespace) -> None:
    """Imports the modules of `add_modules`.

    Raises:
        ImportError: if one of them cannot be imported.
    """
    for module in words(args.modules):
        importlib.import_module(module)


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    """Adds `--tolerance`."""
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="DIFFERENCE",
        help="largest accepted difference from the model, relative to the largest output "
        "(default: 1e-4; float64: 1e-6, float16: 1e-2, bfloat16: 5e-2)",
    )


def check_tolerance(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the command with a sentence if `--tolerance` is negative or NaN."""
    if args.tolerance is not None and not args.tolerance >= 0:
        parser.error(f"argument --tolerance: expected a number >= 0, received {args.tolerance}")


def check_paths(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the command with a sentence if the files of `add_paths` cannot be read or written."""
    check_file("IN", args.input, parser)
    if args.output.suffix != ".keras":
        parser.error(f"argument OUT.keras: expected a name that ends in .keras, got {args.output}")
    if not args.output.parent.is_dir():
        parser.error(f"argument OUT.keras: there is no folder {args.output.parent}")
    if os.path.lexists(args.output) and not args.overwrite:
        parser.error(f"argument OUT.keras: {args.output} exists already; --overwrite replaces it")


def check_file(argument: str, path: Path, parser: argparse.ArgumentParser) -> None:
    """Ends the command with a sentence if there is no such file of a model."""
    if path.is_dir():
        parser.error(f"argument {argument}: {path} is a folder, not a .keras or .h5 file")
    if not path.is_file():
        parser.error(f"argument {argument}: there is no file {path}")


def load(path: Path) -> tuple[keras.Model | None, str]:
    """Returns the model in a file and an empty string, or None and the reason as a sentence."""
    import keras

    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        return None, f"{path} is not a model that Keras can load: it is no .keras archive"
    failure: Exception | None = None
    # What a model was compiled with is not worth more than the model.
    for arguments in ({}, {"compile": False}):
        try:
            model = keras.saving.load_model(path, **arguments)
        except _LOADING_ERRORS as error:
            failure = failure or error
            continue
        if failure is not None:
            print(f"{path} is read without what it was compiled with: {_reason(failure)}")
        return model, ""
    return None, f"{path} is not a model that Keras can load: {_reason(failure)}"


def _reason(error: Exception | None) -> str:
    text = str(error).strip()
    unknown = re.search(r"(?:Could not locate (?:class|function)|Unknown \w+:) '([^']+)'", text)
    if unknown:
        return f"name the module that registers its {unknown[1]!r} with --import"
    if "safe_mode=False" in text:
        return (
            "it holds Python code, in a Lambda layer say, which is not run; if you trust it, pass "
            "keras.saving.load_model(path, safe_mode=False) to tfgn.convert"
        )
    return f"Keras says: {text.splitlines()[0] if text else type(error).__name__}"


class NotSavedError(Exception):
    """Why nothing was written."""


def save(model: keras.Model, path: Path) -> None:
    """Writes the model to a file, and keeps the file only if the model can be read back from it.

    Raises:
        NotSavedError: if the model cannot be saved, or another one is read back.
    """
    import keras

    with whole(path) as unfinished:
        try:
            model.save(unfinished)
        except NotImplementedError as error:
            raise NotSavedError(f"the model cannot be saved: {_reason(error)}") from error
        try:
            loaded = keras.saving.load_model(unfinished, compile=False)
        except _LOADING_ERRORS as error:
            raise NotSavedError(f"it could not be read back: {_reason(error)}") from error
        difference = _difference(model, loaded)
        if difference:
            raise NotSavedError(f"another model was read back: {difference}")


def _difference(model: keras.Model, loaded: keras.Model) -> str:
    """Returns how two models differ, or an empty string."""
    import numpy as np
    from tensorflow_groupnorm._conversion import described
    from tensorflow_groupnorm._export.check import as_batch, largest_difference, run_model
    from tensorflow_groupnorm._export.errors import ExportError
    from tensorflow_groupnorm._export.model import named_signature

    if described(model) != described(loaded):
        return "it has other layers"
    for old, new in zip(model.weights, loaded.weights, strict=True):
        if old.shape != new.shape or not np.array_equal(old.numpy(), new.numpy(), equal_nan=True):
            return f"its weight {new.path} has another value"
    try:
        batch = as_batch(named_signature(model))
        expected = run_model(model, batch)
    except ExportError:
        return ""  # It takes no random batch.
    largest = largest_difference(expected, run_model(loaded, batch))
    # Equal ops on equal weights differ by the order of sums, if at all.
    return "" if largest <= 1e-6 else f"its outputs differ by {largest:.2g} of their magnitude"
