"""`tfgn export`."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfgn_base import names

from . import _calibration
from ._common import fail
from ._model_files import (
    add_modules,
    add_tolerance,
    check_file,
    check_tolerance,
    import_modules,
    load,
)
from ._startup import start_tensorflow

if TYPE_CHECKING:
    import keras
    import numpy as np
    from tensorflow_groupnorm._export import Exported
    from tensorflow_groupnorm._export.quantization import Quantization


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tfgn export` to the subparsers `commands`."""
    parser = commands.add_parser(
        "export",
        help="export a saved model for serving",
        description="Exports a Keras model for serving, with its standardized kernels as "
        "constants, and compares the export with the model on a batch of random numbers.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .keras or .h5 file")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder or file")
    add_modules(parser)
    parser.add_argument(
        "--target",
        choices=names.TARGETS,
        metavar="TARGET",
        help="what to write for: saved_model (the fused op; the default), saved_model_portable "
        "(stock ops, without this package), litert (a TFLite "
        "file with odml.group_norm composites), onnxruntime (an ONNX file "
        "with InstanceNormalization nodes, for which ONNX Runtime has a kernel), onnx (with "
        "GroupNormalization nodes, for other runtimes), openvino (an ONNX file, checked in "
        "OpenVINO), tensorrt (an ONNX file that TensorRT's parser takes; not run in TensorRT)",
    )
    parser.add_argument(
        "--portable",
        action="store_true",
        help="without --target: saved_model_portable, or the target of --format",
    )
    parser.add_argument(
        "--format",
        choices=names.FORMATS,
        default=names.FORMATS[0],
        metavar="FORMAT",
        help=f"{', '.join(names.FORMATS)}; the last two need --portable, and are the targets "
        "litert and onnxruntime (default: %(default)s)",
    )
    add_tolerance(parser)
    parser.add_argument(
        "--example",
        type=Path,
        metavar="FILE",
        help="batch to compare on instead of random numbers: an .npy file, or an .npz file with "
        "one array per input, under its name. Needed for string inputs",
    )
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help="print the latency on that batch in the runtime of the target, beside that of the "
        "fused SavedModel",
    )
    _add_int8(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    parser.set_defaults(command=lambda args: _run(args, parser))


def _add_int8(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--int8",
        action="store_true",
        help="convolutions and matrix multiplications in int8, with float normalizations between "
        f"them; for {', '.join(names.INT8_TARGETS)}. --tolerance is then the largest error on the "
        "calibration data (default: 0.5)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="PATH",
        help="what the ranges of int8 come from: a folder of images, or an .npy or .npz file like "
        "that of --example. At least 8 samples, better 100 or more",
    )
    parser.add_argument(
        "--pixels",
        type=float,
        nargs=2,
        default=(0.0, 255.0),
        metavar=("LOW", "HIGH"),
        help="what the model takes for black and white in the images of --calibration "
        "(default: 0 255)",
    )


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    check_file("MODEL", args.model, parser)
    if args.target and (args.portable or args.format != names.FORMATS[0]):
        parser.error("argument --target: it replaces --portable and --format")
    if not args.target and args.format != "saved_model" and not args.portable:
        parser.error(
            f"argument --format: {args.format} needs --portable, because its runtimes lack the "
            "fused ops"
        )
    if args.target == "tensorrt" and args.benchmark:
        parser.error(
            "argument --benchmark: a file for tensorrt is not run in TensorRT, so it has no latency"
        )
    if args.out.exists() and not args.overwrite:
        parser.error(f"argument OUT: {args.out} exists already; --overwrite replaces it")
    check_tolerance(args, parser)
    _check_int8(args, parser)
    arrays = None if args.example is None else _read_arrays("--example", args.example, parser)
    calibration: Any = None
    if args.calibration is not None and not args.calibration.is_dir():
        calibration = _read_arrays("--calibration", args.calibration, parser)

    start_tensorflow()
    import_modules(args)
    from tensorflow_groupnorm import ExportError, export
    from tensorflow_groupnorm._export.check import example_of
    from tensorflow_groupnorm._export.model import named_signature

    print(f"loading {args.model}", flush=True)
    model, failure = load(args.model)
    if model is None:
        return fail(failure)
    print(f"exporting to {args.target or args.format}", flush=True)
    try:
        example = None if arrays is None else example_of(named_signature(model), arrays)
        if args.int8 and calibration is None:
            signature = named_signature(model)
            calibration = _calibration.read_folder(args.calibration, signature, args.pixels)
        exported = export(
            model,
            args.out,
            portable=args.portable,
            format=args.format,
            target=args.target,
            example=example,
            tolerance=args.tolerance,
            overwrite=args.overwrite,
            int8=calibration,
        )
    except (ExportError, ImportError, OSError, _calibration.CalibrationError) as error:
        return fail(str(error))
    batch = "the first calibration samples" if args.int8 else "a random batch"
    print(_summary(exported, "the example" if args.example else batch), flush=True)
    return _benchmark(model, exported, example) if args.benchmark else 0


def _check_int8(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if args.int8 != (args.calibration is not None):
        parser.error(
            "argument --int8: it needs the ranges of a folder of images or an .npz file: "
            "--calibration PATH"
            if args.int8
            else "argument --calibration: it is for --int8"
        )
    target = args.target or {"tflite": "litert", "onnx": "onnxruntime"}.get(args.format)
    if args.int8 and target not in names.INT8_TARGETS:
        parser.error(f"argument --int8: it needs --target {', '.join(names.INT8_TARGETS)}")


def _benchmark(model: keras.Model, exported: Exported, example: Any) -> int:
    from tensorflow_groupnorm import ExportError
    from tensorflow_groupnorm._export.latency import latencies

    try:
        measured = latencies(model, exported, example)
    except ExportError as error:
        return fail(f"The latency is not measured. {error}")
    for target, milliseconds in measured.items():
        print(f"latency of {target}: {milliseconds:.2f} ms")
    return 0


def _read_arrays(
    option: str, path: Path, parser: argparse.ArgumentParser
) -> np.ndarray | dict[str, np.ndarray]:
    """Returns the array of an .npy file, or the arrays of an .npz file by their names."""
    if not path.is_file():
        parser.error(f"argument {option}: there is no file {path}")
    if path.suffix not in (".npy", ".npz"):
        parser.error(f"argument {option}: expected an .npy or .npz file, received {path}")
    import numpy as np

    try:
        content = np.load(path, allow_pickle=False)
        return content if path.suffix == ".npy" else dict(content)
    except (EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error)
        if "allow_pickle" in reason:
            reason = "it holds Python objects; store strings with np.array(texts, dtype=str)"
        parser.error(f"argument {option}: {path} cannot be read: {reason}")


def _summary(exported: Exported, batch: str) -> str:
    needs = ", ".join(exported.custom_ops)
    lines = [
        f"wrote {exported.path}",
        f"custom ops: {f'{needs} (needs tensorflow-groupnorm)' if needs else 'none'}",
    ]
    if exported.format != "saved_model":
        norms = len(exported.fused) + len(exported.unfused)
        lines.append(f"normalizations that are one node: {len(exported.fused)} of {norms}")
        lines += [f"  {layer} is not: {reason}" for layer, reason in exported.unfused.items()]
    if exported.executed:
        executed = ", ".join(f"{number} {kind}" for kind, number in exported.executed.items())
        lines.append(f"{exported.runtime} executes {executed}")
    if exported.note:
        lines.append(exported.note)
    if exported.difference is None:
        lines.append("not checked")
    else:
        kind = "in float32, " if exported.quantization else ""
        lines.append(
            f"{kind}largest difference from the model on {batch}: {exported.difference:.1e}"
        )
    if exported.quantization:
        lines += _int8_lines(exported.quantization)
    return "\n".join(lines)


def _int8_lines(found: Quantization) -> list[str]:
    lines = [
        f"layers in int8: {found.layers}",
        f"int8 error on the {found.samples} calibration samples: {found.error:.1e} of the outputs "
        "(root mean squares)",
    ]
    if found.agreement is not None:
        lines.append(f"same top class as in float32, on these samples: {found.agreement:.1%}")
    sizes = [f"{size / 1e6:.2f} MB" for size in (found.float_bytes, found.int8_bytes)]
    return [*lines, f"size: {sizes[0]} in float32, {sizes[1]} in int8"]
