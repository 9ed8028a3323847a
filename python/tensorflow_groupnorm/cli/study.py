"""`tfgn study`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..study.config import (
    FINAL_EPOCHS,
    MODELS,
    NORMS,
    REFERENCE_BATCH_SIZE,
    RunError,
    Study,
    StudyError,
)
from ._common import fail, words


def add(commands):
    """Makes `tfgn study` known to the parser's `commands`."""
    parser = commands.add_parser(
        "study",
        help="does GroupNorm + WS help at my batch size?",
        description="Trains the same small ResNet with each normalization at each batch size, and "
        "compares\nvalidation errors, step times and memory. Finished runs are kept: after an "
        "interruption the\nsame command goes on, and after a change of options only what they "
        "change is trained again.",
        epilog="normalizations:\n" + "\n".join(f"  {norm:6} {NORMS[norm]}" for norm in NORMS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _study_what(parser)
    _study_how(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Study.out,
        metavar="DIR",
        help="folder for report.md, results.json, the plots and kept runs (default: %(default)s)",
    )
    parser.set_defaults(command=lambda args: _run_study(args, parser))


def _study_what(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with one folder of PNG or JPEG images per class "
        "(default: the handwritten digits inside scikit-learn)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side to which images are cropped and resized (default: 64; digits: 8)",
    )
    parser.add_argument(
        "--validation-split",
        type=float,
        metavar="PART",
        help="part of the images that validates; the split is the same for every run "
        "(default: 0.2; digits: 0.5)",
    )
    parser.add_argument(
        "--norms",
        nargs="+",
        default=Study.norms,
        metavar="NORM",
        help=f"among {', '.join(NORMS)}; explained below (default: {','.join(Study.norms)})",
    )
    parser.add_argument(
        "--batch-sizes",
        nargs="+",
        default=map(str, Study.batch_sizes),
        metavar="N",
        help=f"images per training step (default: {','.join(map(str, Study.batch_sizes))})",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        default=map(str, Study.seeds),
        metavar="SEED",
        help="seeds of the weights and of the order of the images; with several, the report has "
        f"means and spreads (default: {','.join(map(str, Study.seeds))})",
    )


def _study_how(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--model",
        default=Study.model,
        help=f"{', '.join(MODELS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=Study.epochs,
        metavar="N",
        help="passes over the training images; the reported error is the median over the final "
        f"{FINAL_EPOCHS} (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=Study.learning_rate,
        metavar="RATE",
        help=f"for a batch of {REFERENCE_BATCH_SIZE}, scaled linearly with the batch size, with "
        "cosine decay (default: %(default)s)",
    )
    groups = parser.add_mutually_exclusive_group()
    groups.add_argument(
        "--groups",
        type=int,
        metavar="N",
        help=f"groups of gn and gn+ws (default: {Study.groups})",
    )
    groups.add_argument(
        "--group-size", type=int, metavar="N", help="channels per group, instead of --groups"
    )


def _run_study(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    groups = Study.groups if (args.groups, args.group_size) == (None, None) else args.groups
    try:
        study = Study(
            norms=tuple(words(args.norms)),
            batch_sizes=_numbers(args.batch_sizes, "batch_sizes"),
            seeds=_numbers(args.seeds, "seeds"),
            epochs=args.epochs,
            learning_rate=args.learning_rate,
            groups=groups,
            group_size=args.group_size,
            model=args.model,
            data=args.data,
            image_size=args.image_size,
            validation_split=args.validation_split,
            out=args.out,
        )
        from ..study import runner

        runner.run(study)
    except StudyError as error:
        parser.error(str(error))
    except ModuleNotFoundError as error:
        return fail(f"{error.name} is missing: pip install 'tensorflow-groupnorm[study]'")
    except RunError as error:
        return fail(str(error))
    return 0


def _numbers(texts: list[str], field: str) -> tuple[int, ...]:
    numbers = []
    for word in words(texts):
        try:
            numbers.append(int(word))
        except ValueError:
            raise StudyError(f"{field} must be whole numbers; received {word!r}") from None
    return tuple(numbers)
