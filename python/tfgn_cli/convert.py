"""`tfgn convert`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfgn_base.variants import VARIANTS

from ._common import fail, words
from ._model_files import NotSavedError, add_paths, check_paths, import_modules, load, save
from ._startup import start_tensorflow

if TYPE_CHECKING:
    from tensorflow_groupnorm import ConversionReport


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
    add_paths(parser)
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
        "--every-layer",
        action="store_true",
        help="print one line per layer instead of one per kind",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report as JSON")


def _convert(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    check_paths(args, parser)
    if args.report and not args.report.parent.is_dir():
        parser.error(f"argument --report: there is no folder {args.report.parent}")
    start_tensorflow()
    import_modules(args)
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
        save(model, path)
        if args.report:
            path = args.report
            path.write_text(json.dumps(reports[0].to_dict(), indent=1))
    except NotSavedError as reason:
        return fail(f"nothing is written, as {reason}")
    except OSError as error:
        return fail(f"{path} cannot be written: {error.strerror or error}")
    print(f"saved {args.output}; it loads after `import tensorflow_groupnorm`")
    return 0
