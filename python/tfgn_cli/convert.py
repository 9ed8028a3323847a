"""`tfgn convert`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfgn_base.files import whole
from tfgn_base.variants import VARIANTS

from ._common import fail, words
from ._startup import start_tensorflow

if TYPE_CHECKING:
    import keras
    from tensorflow_groupnorm import ConversionReport

_LOADING_ERRORS = (ValueError, TypeError, OSError, LookupError, AttributeError)


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tfgn convert` to the subparsers `commands`."""
    parser = commands.add_parser(
        "convert",
        help="convert a saved model from BatchNorm to GroupNorm and WS",
        description="Replaces BatchNormalization in a Keras model with GroupNormalization and "
        "convolutions with weight-standardized ones. Saves the result with the weights that carry "
        "over, and prints what was replaced, fused and kept, and why. Fine-tune the new model "
        "before you use it.",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="a .keras or .h5 file")
    parser.add_argument("output", type=Path, metavar="OUT.keras", help="output file")
    groups = parser.add_mutually_exclusive_group()
    groups.add_argument(
        "--groups",
        type=int,
        metavar="N",
        help="number of groups; -1: one per channel (default: 32)",
    )
    groups.add_argument(
        "--group-size", type=int, metavar="N", help="channels per group, instead of --groups"
    )
    parser.add_argument(
        "--weight-standardization",
        choices=(*VARIANTS, "none"),
        default="bit",
        metavar="VARIANT",
        help=f"{', '.join(VARIANTS)} or none (default: %(default)s)",
    )
    parser.add_argument(
        "--norm",
        choices=("gn", "none"),
        default="gn",
        help="none keeps the normalizations (default: %(default)s)",
    )
    _add_details(parser)
    parser.set_defaults(command=lambda args: _convert(args, parser))


def _add_details(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layer-normalization", action="store_true", help="replace LayerNormalization as well"
    )
    parser.add_argument(
        "--no-fuse",
        action="store_true",
        help="keep activations and additions as separate layers",
    )
    parser.add_argument(
        "--save-memory",
        action="store_true",
        help="put normalizations into one layer with the convolutions that read their outputs: the "
        "model trains in less memory, with the same results",
    )
    parser.add_argument(
        "--keep", nargs="+", default=[], metavar="LAYER", help="names of layers to keep"
    )
    parser.add_argument(
        "--import",
        dest="modules",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="Python modules to import first, which register custom layers of the model",
    )
    parser.add_argument(
        "--every-layer",
        action="store_true",
        help="print one line per layer instead of one per kind",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--force", action="store_true", help="overwrite OUT.keras")


def _convert(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _check(args, parser)
    start_tensorflow()
    for module in words(args.modules):
        importlib.import_module(module)
    from tensorflow_groupnorm import convert

    model, failure = load(args.input)
    if model is None:
        return fail(failure)
    reports = []

    def show(report: ConversionReport) -> None:
        reports.append(report)
        print(report.table(every_layer=args.every_layer))

    standardization = args.weight_standardization
    try:
        model = convert(
            model,
            norm=None if args.norm == "none" else args.norm,
            weight_standardization=None if standardization == "none" else standardization,
            layer_normalization=args.layer_normalization,
            fuse=not args.no_fuse,
            save_memory=args.save_memory,
            keep=words(args.keep),
            report=show,
            groups=args.groups,
            group_size=args.group_size,
        )
    except ValueError as error:
        parser.error(str(error))
    path = args.output
    try:
        _save(model, path)
        if args.report:
            path = args.report
            path.write_text(json.dumps(reports[0].to_dict(), indent=1))
    except _NotSavedError as reason:
        return fail(f"nothing is written, as {reason}")
    except OSError as error:
        return fail(f"{path} cannot be written: {error.strerror or error}")
    print(f"saved {args.output}; it loads after `import tensorflow_groupnorm`")
    return 0


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


class _NotSavedError(Exception):
    """Why nothing was written."""


def _save(model: keras.Model, path: Path) -> None:
    """Writes the model to a file, and keeps the file only if the model can be read back from it.

    Raises:
        _NotSavedError: if the model cannot be saved, or another one is read back.
    """
    import keras

    with whole(path) as unfinished:
        try:
            model.save(unfinished)
        except NotImplementedError as error:
            raise _NotSavedError(f"the model cannot be saved: {_reason(error)}") from error
        try:
            loaded = keras.saving.load_model(unfinished, compile=False)
        except _LOADING_ERRORS as error:
            raise _NotSavedError(f"it could not be read back: {_reason(error)}") from error
        difference = _difference(model, loaded)
        if difference:
            raise _NotSavedError(f"another model was read back: {difference}")


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


def _check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if not args.input.is_file():
        parser.error(f"argument IN: there is no file {args.input}")
    if args.output.suffix != ".keras":
        parser.error(f"argument OUT.keras: expected a name that ends in .keras, got {args.output}")
    if not args.output.parent.is_dir():
        parser.error(f"argument OUT.keras: there is no folder {args.output.parent}")
    if os.path.lexists(args.output) and not args.force:
        parser.error(f"argument OUT.keras: {args.output} exists; --force overwrites it")
    if args.report and not args.report.parent.is_dir():
        parser.error(f"argument --report: there is no folder {args.report.parent}")
