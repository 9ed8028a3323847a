"""`tfgn study`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tfgn_study import presets
from tfgn_study.config import (
    FINAL_EPOCHS,
    NORMS,
    PRECISIONS,
    REFERENCE_BATCH_SIZE,
    RunError,
    Study,
    StudyError,
)
from tfgn_study.networks import MODELS

from ._common import fail, words


def add(commands):
    """Makes `tfgn study` known to the parser's `commands`."""
    norms = "\n".join(f"  {norm:6} {NORMS[norm]}" for norm in NORMS)
    experiments = "\n".join(f"  {name:10} {p.title}{p.note}" for name, p in presets.PRESETS.items())
    parser = commands.add_parser(
        "study",
        help="does GroupNorm + WS help at my batch size?",
        description="Trains the same small ResNet with each normalization at each batch size, and "
        "compares\nvalidation errors, step times and memory. Finished runs are kept: after an "
        "interruption the\nsame command goes on, and after a change of options only what they "
        "change is trained again.",
        epilog=f"normalizations:\n{norms}\n\npresets (other options change them):\n{experiments}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # What is not given is left to the preset, then to `Study`.
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--preset",
        choices=presets.PRESETS,
        default=None,
        help="an experiment of the papers, whose published numbers the report shows; see below",
    )
    _what(parser.add_argument_group("what is compared"))
    _data(parser.add_argument_group("images"))
    _training(parser.add_argument_group("training"))
    _running(parser.add_argument_group("running"))
    parser.set_defaults(command=lambda args: _run_study(args, parser))


def _what(parser):
    parser.add_argument(
        "--norms",
        nargs="+",
        metavar="NORM",
        help=f"among {', '.join(NORMS)}; explained below; gn:groups=4 and gn:size=4 are gn with 4 "
        f"groups and with 4 channels per group (default: {','.join(Study.norms)})",
    )
    parser.add_argument(
        "--batch-sizes",
        nargs="+",
        metavar="N",
        help=f"images per training step (default: {','.join(map(str, Study.batch_sizes))})",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        metavar="SEED",
        help="seeds of the weights and of the order of the images; with several, the report has "
        "means and spreads (default: 0; digits: 0,1,2)",
    )
    parser.add_argument(
        "--model",
        dest="models",
        nargs="+",
        metavar="MODEL",
        help=f"among {', '.join(MODELS)} (default: {','.join(Study.models)})",
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


def _data(parser):
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with one folder of PNG or JPEG images per class (default: the handwritten "
        "digits inside scikit-learn); with --preset pets or cifar10, the unpacked data set "
        "(default: by tensorflow-datasets)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side to which images are cropped and resized (default: 64; digits: 8; pets: 128; "
        "cifar10: 32)",
    )
    parser.add_argument(
        "--validation-split",
        type=float,
        metavar="PART",
        help="part of the images that validates; the split is the same for every run "
        "(default: 0.2; digits: 0.5)",
    )
    parser.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="flip and shift training images at random (default: no)",
    )


def _training(parser):
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="passes over the training images; the reported error is the median over the final "
        f"{FINAL_EPOCHS} (default: {Study.epochs})",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help=f"for a batch of {REFERENCE_BATCH_SIZE}, scaled linearly with the batch size, with "
        f"cosine decay (default: {Study.learning_rate}, for resnet8; larger networks need less, "
        "and their presets have the papers')",
    )
    parser.add_argument(
        "--ema",
        type=float,
        metavar="MOMENTUM",
        help="validate with an exponential moving average of the weights, of this momentum "
        "(0.99, say)",
    )
    parser.add_argument(
        "--clip-norm",
        type=float,
        metavar="NORM",
        help="scale gradients down whose norm, all of them together, is larger",
    )
    parser.add_argument(
        "--agc",
        type=float,
        metavar="FACTOR",
        help="adaptive gradient clipping: scale gradients down whose norm is larger than this part "
        "of that of their weights (0.01, say)",
    )
    parser.add_argument(
        "--mixed-precision",
        metavar="DTYPE",
        help=f"compute in {' or '.join(PRECISIONS)} with float32 weights",
    )
    parser.add_argument(
        "--jit",
        action=argparse.BooleanOptionalAction,
        help="compile the training step with XLA (default: Keras decides: yes on a GPU)",
    )
    parser.add_argument(
        "--bit-checkpoint",
        type=Path,
        metavar="NPZ",
        help="fine-tune a checkpoint of Big Transfer, with --model bit-r50x1 or another bit-...",
    )


def _running(parser):
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for report.html, report.md, results.json, the plots and kept runs "
        f"(default: {Study.out})",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="train N runs at a time, each on its part of the cores; errors are comparable then, "
        "step times are not (default: 1; digits: 2)",
    )
    parser.add_argument(
        "--checkpoints",
        action=argparse.BooleanOptionalAction,
        help="keep the state of a run after each epoch, so that it, too, goes on after an "
        "interruption (default: no)",
    )


def _run_study(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        study = Study(**presets.options(args.preset, _given(args)))
        from tfgn_study import runner

        runner.run(study)
    except StudyError as error:
        parser.error(str(error))
    except ModuleNotFoundError as error:
        return fail(f"{error.name} is missing: pip install 'tensorflow-groupnorm[study]'")
    except RunError as error:
        return fail(str(error))
    return 0


def _given(args: argparse.Namespace) -> dict:
    """Returns the options that were given, as `Study` takes them."""
    fields = Study.__dataclass_fields__.keys() - {"preset"}
    given = {name: value for name, value in vars(args).items() if name in fields}
    for name in ("norms", "models"):
        if name in given:
            given[name] = tuple(words(given[name]))
    for name in ("batch_sizes", "seeds"):
        if name in given:
            given[name] = _numbers(given[name], name)
    if "group_size" in given:
        given["groups"] = None
    return given


def _numbers(texts: list[str], field: str) -> tuple[int, ...]:
    numbers = []
    for word in words(texts):
        try:
            numbers.append(int(word))
        except ValueError:
            raise StudyError(f"{field} must be whole numbers; received {word!r}") from None
    return tuple(numbers)
