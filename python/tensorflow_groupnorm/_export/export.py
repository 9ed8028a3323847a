"""`tensorflow_groupnorm.export`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
from tfgn_base.files import whole
from tfgn_base.names import FORMATS

from .._keras import on_tensorflow
from . import check, onnx, saved_model, tflite
from .errors import ExportError, first_line
from .model import (
    compute_dtype,
    computing_in_float32,
    named_signature,
    with_declared_batch,
    without_rematerialization,
)


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the folder of the SavedModel, or the file.
        format: `"saved_model"`, `"tflite"` or `"onnx"`.
        portable: whether it runs without the op library.
        custom_ops: the ops it has that TensorFlow has not; empty where it is portable.
        difference: the largest difference from the model on the batch it was checked on, relative
            to the largest magnitude of an output; None where there was none.
    """

    path: Path
    format: str
    portable: bool
    custom_ops: tuple[str, ...]
    difference: float | None


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    portable: bool = False,
    format: str = "saved_model",
    *,
    input_signature: list[Any] | None = None,
    example: Any = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> Exported:
    """Writes a model for serving.

    Standardized kernels are computed once and become constants: weight standardization costs
    nothing at serving time. The GroupNorm op stays, and what serves the model needs the op library
    of this package; with `portable=True` it is replaced by stock TensorFlow ops, and the model
    runs wherever stock models run: in TensorFlow without this package, TensorFlow Serving, TFLite
    and ONNX Runtime.

    What was written is loaded and run on a batch, and its outputs compared with the model's, before
    it takes its place at `path`. Where the fused model does not even run here, on a batch of
    random numbers, a warning says that it was not checked. The model itself is not changed.

    A SavedModel is as of `keras.Model.export`: the endpoint `serve`, the signature
    `serving_default`, any batch size unless the model runs with the one that it declares alone. The
    file `assets.extra/tensorflow_groupnorm.json` in it says which custom ops it has and which
    packages and versions it needs. TFLite files hold TFLite's
    builtin ops alone, ONNX files opset 18; both compute in float32 whatever the dtype policy.

    Args:
        model: a built `keras.Model`: Functional, Sequential, or subclassed and called once.
        path: where to write: the folder of a SavedModel, or the file.
        portable: whether to leave out all custom ops. TFLite and ONNX need it.
        format: `"saved_model"`, `"tflite"` or `"onnx"`.
        input_signature: a list of structures of `keras.InputSpec` or `tf.TensorSpec`, one per
            positional argument of the model, in place of what the model tells.
        example: a batch to check on, structured as the model's input; random by default, with 64
            for sizes that are not known. A tuple holds several positional arguments.
        tolerance: the largest difference to accept, relative to the largest magnitude of an output.
            By default 1e-4; for models that compute in float64 1e-6, in float16 1e-2 and in
            bfloat16 5e-2.
        overwrite: whether to replace what is at `path`: a file, a SavedModel or a link, not what
            the link points to.

    Returns:
        An `Exported`, which tells what was written and the difference that was found.

    Raises:
        ExportError: if the model does not know the shapes of its inputs, does not run on the batch,
            has nested outputs, calls custom ops by their raw name in spite of `portable`, has ops
            that the format lacks, or if what was written differs from the model by more than
            `tolerance`. Nothing is written then.
        FileExistsError: if there is something at `path`, a link included, and `overwrite` is not
            set, or if that is a folder of anything but a SavedModel.
        NotADirectoryError: if `path` is below a file.
        ImportError: if the format needs a package that is not installed.
        TypeError: if `model` is no `keras.Model`.
        ValueError: for another argument outside of the above.
    """
    path = Path(path)
    _check_arguments(model, portable, format)
    _check_target(path, overwrite)
    # What runs TFLite and ONNX files has convolutions in float32 alone.
    precision = contextlib.nullcontext() if format == "saved_model" else computing_in_float32(model)
    with precision, without_rematerialization(model):
        signature = named_signature(model, input_signature)
        try:
            signature, batch, expected = _on_a_batch(model, signature, input_signature, example)
        except ExportError as error:
            if portable or example is not None:
                raise
            warnings.warn(f"The export is not checked. {error}", stacklevel=2)
            expected = None
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as unfinished, TemporaryDirectory(dir=unfinished.parent) as folder:
            written, custom_ops = _write(model, signature, Path(folder), portable, format)
            difference = None
            if expected is not None:
                actual = _run(written, format, check.by_name(signature, batch))
                difference = check.largest_difference(expected, actual)
                _require(difference, tolerance, model)
            os.replace(written, unfinished)
    return Exported(path, format, portable, custom_ops, difference)


def _check_arguments(model, portable, format):
    if not on_tensorflow():
        raise RuntimeError(
            "export needs Keras on TensorFlow (KERAS_BACKEND=tensorflow). "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}. Received: {format!r}")
    if format != "saved_model" and not portable:
        raise ValueError(
            f"format={format!r} needs portable=True: what runs such a file has no fused ops."
        )
    if format == "onnx":
        onnx.require()


def _check_target(path, overwrite):
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"{path} cannot be written: {parent} is no folder.")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists already: set overwrite, or choose another path.")
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").is_file():
        raise FileExistsError(f"{path} is a folder that holds no SavedModel, and is left as it is.")


def _on_a_batch(model, signature, given, example):
    """Returns the signature, a batch of it and the model's outputs for that.

    The signature is of the batch size that the model declares where it takes no other one.
    """
    try:
        batch = check.as_batch(signature, example)
        return signature, batch, check.run_model(model, batch)
    except ExportError:
        declared = with_declared_batch(model, signature)
        if given is not None or declared == signature:
            raise
        batch = check.as_batch(declared, example)
        return declared, batch, check.run_model(model, batch)


def _write(model, signature, folder, portable, format):
    """Writes the model into a folder; returns the SavedModel or file, and its custom ops."""
    written = folder / "saved_model"
    saved_model.write(model, signature, written, stock=portable)
    custom_ops = saved_model.custom_ops(saved_model.ops(written))
    if portable and custom_ops:
        raise ExportError(
            f"The model {model.name} has custom ops that a portable one cannot have: "
            f"{', '.join(custom_ops)}. They are called by their raw name."
        )
    if "StandardizeWeights" in custom_ops:
        warnings.warn(
            f"The model {model.name} standardizes kernels at every call also when exported: they "
            "are no variables, but computed in the call, or standardized by the raw op.",
            stacklevel=3,
        )
    if format == "saved_model":
        return written, tuple(custom_ops)
    file = folder / f"model.{format}"
    {"tflite": tflite, "onnx": onnx}[format].convert(written, file)
    return file, tuple(custom_ops)


def _run(written, format, inputs):
    run = {"saved_model": saved_model, "tflite": tflite, "onnx": onnx}[format].run
    try:
        return run(written, inputs)
    except Exception as error:
        raise ExportError(f"What was written does not run: {first_line(error)}") from error


def _require(difference, tolerance, model):
    if tolerance is None:
        tolerance = check.default_tolerance(compute_dtype(model))
    if not difference <= tolerance:
        raise ExportError(
            f"What was written differs from the model {model.name}: the largest difference is "
            f"{difference:.2g} of the largest magnitude of an output, and {tolerance:g} was "
            "expected at most."
        )
