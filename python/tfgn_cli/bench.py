"""`tfgn bench`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from ._common import fail, words
from ._model_files import add_modules
from ._processes import WorkerError
from ._startup import start_tensorflow

#: From ResNet-50 and from a diffusion U-Net.
BENCH_SHAPES = ("2x56x56x64", "2x28x28x512", "2x64x64x320")
GROUPS = 32
REPEATS, MODEL_REPEATS = 30, 10

_EPILOG = """\
With MODEL, the rows are the model as it is, converted by tfgn.convert, and
converted with save_memory=True; each without and with jit_compile=True. Each
row has a process of its own on the CPU, and the processes take turns. A
training step minimizes the mean squares of all outputs on fresh standard normal
inputs, with the optimizer that the model is compiled with, or else SGD with
momentum. Peak memory is the most that the process takes in a training step,
above what it took before the model was built. The file does not change."""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tfgn bench` to the subparsers `commands`."""
    parser = commands.add_parser(
        "bench",
        help="time the fused layers against stock Keras and BatchNorm, or a model before and after "
        "conversion",
        description="Without MODEL: times GroupNormalization and weight standardization on this\n"
        "machine in graph mode, fused and in stock Keras, and the BatchNormalization in\n"
        "their place. The times are medians over fresh random inputs, and the versions\n"
        "take turns.\n\n"
        "With MODEL: measures the training step, the inference and the peak memory of\n"
        "that model as it is, with its BatchNorm, and converted.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a .keras or .h5 file, or the name of a model of keras.applications, such as "
        "ResNet50V2, which is built with random weights",
    )
    parser.add_argument(
        "--groups", type=int, metavar="N", help=f"number of groups (default: {GROUPS})"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help=f"timings per case (default: {REPEATS}; with MODEL: {MODEL_REPEATS})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    layers = parser.add_argument_group("without MODEL")
    layers.add_argument(
        "--shapes",
        nargs="+",
        metavar="NxHxWxC",
        help="input shapes of GroupNormalization, channels last, any rank "
        f"(default: {','.join(BENCH_SHAPES)})",
    )
    _add_model_options(parser.add_argument_group("with MODEL"))
    parser.set_defaults(command=lambda args: _run_bench(args, parser))


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--batch-size", type=int, metavar="N", help="samples of a step; required")
    group.add_argument(
        "--image-size",
        type=int,
        metavar="S",
        help="height and width of the images: the sizes that the inputs of a file leave open, or "
        "those that a model of keras.applications is built for (default: its own)",
    )
    group.add_argument("--no-jit", action="store_true", help="leave out the rows with jit_compile")
    group.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="also find the largest batch whose peak memory is at most this (1 GB: 2^30 bytes) "
        "for each row without jit, by measuring several sizes",
    )
    add_modules(group)


def _run_bench(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.repeats is not None and args.repeats < 1:
        parser.error(f"argument --repeats: expected at least 1, received {args.repeats}")
    if args.json:
        _check_writable(args.json, parser)
    if args.model is None:
        for option in ("batch_size", "image_size", "no_jit", "memory", "modules"):
            if getattr(args, option):
                name = {"modules": "import"}.get(option, option.replace("_", "-"))
                parser.error(f"argument --{name}: needs MODEL")
        result = _run_layers(args, parser)
    else:
        try:
            result = _run_model(args, parser)
        except WorkerError as error:
            return fail(error.sentence)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0


def _run_layers(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    groups = GROUPS if args.groups is None else args.groups
    shapes = []
    for text in words(list(BENCH_SHAPES) if args.shapes is None else args.shapes):
        sizes = text.split("x")
        if len(sizes) < 2 or not all(size.isdigit() and int(size) > 0 for size in sizes):
            parser.error(f"argument --shapes: expected sizes such as 2x56x56x64, received {text!r}")
        shape = tuple(int(size) for size in sizes)
        if groups < 1 or shape[-1] % groups:
            parser.error(
                f"argument --groups: expected a divisor of the {shape[-1]} channels of {text}, "
                f"received {groups}"
            )
        shapes.append(shape)
    if not shapes:
        parser.error("argument --shapes: expected at least one shape")
    start_tensorflow()
    from . import _timings

    return _timings.run(shapes, groups, args.repeats or REPEATS)


def _check_writable(path: Path, parser: argparse.ArgumentParser) -> None:
    """Ends the command before it measures, rather than afterwards."""
    if not path.parent.is_dir():
        parser.error(f"argument --json: there is no folder {path.parent}")
    if path.is_dir():
        parser.error(f"argument --json: {path} is a folder")
    if path.exists() and not path.is_file():
        return  # Such as /dev/stdout.
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        parser.error(f"argument --json: {path} cannot be written: {error.strerror}")


def _run_model(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    _check_model_options(args, parser)
    start_tensorflow()
    from ._model_bench.job import Job, RefusedError
    from ._model_bench.run import run

    modules = tuple(words(args.modules))
    job = Job(args.model, args.batch_size, args.image_size, args.groups, modules)
    try:
        return run(
            job,
            jit=not args.no_jit,
            repeats=args.repeats or MODEL_REPEATS,
            memory=None if args.memory is None else int(args.memory * 2**30),
        )
    except RefusedError as error:
        parser.error(f"argument MODEL: {error}")


def _check_model_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    path = Path(args.model)
    if (path.suffix or len(path.parts) > 1) and not path.is_file():
        parser.error(f"argument MODEL: there is no file {path}")
    if args.shapes is not None:
        parser.error("argument --shapes: not allowed with MODEL")
    if args.batch_size is None:
        parser.error("argument --batch-size: MODEL needs it")
    for option in ("batch_size", "image_size"):
        value = getattr(args, option)
        if value is not None and value < 1:
            name = option.replace("_", "-")
            parser.error(f"argument --{name}: expected at least 1, received {value}")
    if args.groups is not None and (args.groups < -1 or args.groups == 0):
        parser.error(f"argument --groups: expected a positive number or -1, received {args.groups}")
    if args.memory is not None:
        from . import _memory

        has = _memory.available() / 2**30
        if not 0 < args.memory <= has:
            parser.error(
                f"argument --memory: expected at most the {has:.1f} GB that this machine has left, "
                f"received {args.memory:g}"
            )
