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

_MODULES = {"saved_model": saved_model, "tflite": tflite, "onnx": onnx}


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export` wrote, and what it found out about it.

    Attributes:
        path: the directory of the SavedModel, or the file.
        format: `"saved_model"`, `"tflite"` or `"onnx"`.
        portable: whether it runs without the op library.
        custom_ops: the ops in it that stock TensorFlow does not have. Empty if it is portable.
        difference: the largest difference from the outputs of the model on the batch that they were
            compared on, relative to the largest magnitude of an output. None if they were not
            compared.
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

    Standardized kernels are computed once and become constants, so weight standardization costs
    nothing at serving time. By default, the fused GroupNorm op remains, and serving the model
    requires the op library of this package. With `portable=True`, stock TensorFlow ops replace it,
    and the model runs wherever stock models run: in TensorFlow without this package, TensorFlow
    Serving, TFLite and ONNX Runtime.

    Before the export is moved to `path`, it is loaded and run on a batch, and its outputs are
    compared with those of the model. If a fused model does not run on this machine on random
    numbers, it is exported without the comparison, and a warning says so. The model itself does not
    change.

    A SavedModel has the endpoint `serve` and the signature `serving_default`, as from
    `keras.Model.export`. It accepts any batch size, unless the model runs only with the one that
    it declares. Its file `assets.extra/tensorflow_groupnorm.json` lists the custom ops, and the
    packages and versions that it requires. TFLite files contain only TFLite's builtin ops; ONNX
    files have opset 18. Both compute in float32, whatever the dtype policy of the model.

    Args:
        model: a built `keras.Model`: Functional, Sequential, or subclassed and called once.
        path: the directory of the SavedModel, or the file, to write.
        portable: whether to use only stock ops. Required for TFLite and ONNX.
        format: `"saved_model"`, `"tflite"` or `"onnx"`.
        input_signature: a list of structures of `keras.InputSpec` or `tf.TensorSpec`, one per
            positional argument of the model, which replaces the model's own.
        example: the batch to compare on, structured like the input of the model. A tuple holds
            several positional arguments. By default, two random samples, with 64 for unknown
            sizes.
        tolerance: the largest difference to accept, relative to the largest magnitude of an output.
            By default 1e-4; for models that compute in float64 1e-6, in float16 1e-2, in bfloat16
            5e-2.
        overwrite: whether to replace a file, a SavedModel or a symbolic link at `path`. The target
            of a link is left alone.

    Returns:
        An `Exported` with what was written and the difference that was found.

    Raises:
        ExportError: if the input shapes of the model are unknown, the model does not run on the
            batch, has outputs that are no tensors, calls custom ops by their raw names although
            `portable` is set, or has ops that the format does not support; or if the export differs
            from the model by more than `tolerance`. No file is written.
        FileExistsError: if `path` exists and `overwrite` is not set, or if `path` is a directory
            that does not hold a SavedModel.
        NotADirectoryError: if a parent of `path` is a file.
        ImportError: if the format needs a package that is not installed.
        RuntimeError: if Keras does not run on TensorFlow.
        TypeError: if `model` is not a `keras.Model`.
        ValueError: if another argument is invalid.
    """
    path = Path(path)
    _check_arguments(model, portable, format)
    _check_target(path, overwrite)
    # The runtimes of TFLite and ONNX files have convolutions only in float32.
    precision: contextlib.AbstractContextManager[None]
    precision = contextlib.nullcontext() if format == "saved_model" else computing_in_float32(model)
    with precision, without_rematerialization(model):
        signature = named_signature(model, input_signature)
        try:
            signature, batch, expected = _on_a_batch(model, signature, input_signature, example)
        except ExportError as error:
            if portable or example is not None:
                raise
            warnings.warn(f"The export is not compared with the model. {error}", stacklevel=2)
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


def _check_arguments(model: keras.Model, portable: bool, format: str) -> None:
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
            f"format={format!r} needs portable=True: its runtimes do not have the fused ops."
        )
    if format == "onnx":
        onnx.require()


def _check_target(path: Path, overwrite: bool) -> None:
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"{path} cannot be written: {parent} is not a directory.")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite=True or choose another path.")
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").is_file():
        raise FileExistsError(
            f"{path} is a directory without a SavedModel, which is never overwritten."
        )


def _on_a_batch(
    model: keras.Model, signature: list[Any], given: list[Any] | None, example: Any
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Returns the signature, a batch that fits it and the outputs of the model on that batch.

    If the model runs only with the batch size that it declares, the signature has that size.
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


def _write(
    model: keras.Model, signature: list[Any], folder: Path, portable: bool, format: str
) -> tuple[Path, tuple[str, ...]]:
    """Writes the model into a directory; returns the SavedModel or file, and its custom ops."""
    written = folder / "saved_model"
    custom_ops = saved_model.write(model, signature, written, stock=portable)
    if portable and custom_ops:
        raise ExportError(
            f"The model {model.name} calls custom ops by their raw names, which a portable model "
            f"cannot contain: {', '.join(custom_ops)}."
        )
    if "StandardizeWeights" in custom_ops:
        warnings.warn(
            f"The exported model {model.name} still standardizes kernels at every call: they are "
            "computed in the call instead of stored in variables, or standardized by the raw op.",
            stacklevel=3,
        )
    if format == "saved_model":
        return written, tuple(custom_ops)
    file = folder / f"model.{format}"
    _MODULES[format].convert(written, file)
    return file, tuple(custom_ops)


def _run(written: Path, format: str, inputs: dict[str, Any]) -> dict[str, Any]:
    try:
        outputs: dict[str, Any] = _MODULES[format].run(written, inputs)
        return outputs
    except Exception as error:
        raise ExportError(f"The exported model does not run: {first_line(error)}") from error


def _require(difference: float, tolerance: float | None, model: keras.Model) -> None:
    if tolerance is None:
        tolerance = check.default_tolerance(compute_dtype(model))
    if not difference <= tolerance:
        raise ExportError(
            f"The export differs from the model {model.name}: the largest difference is "
            f"{difference:.2g} of the largest magnitude of an output; the tolerance is "
            f"{tolerance:g}."
        )
