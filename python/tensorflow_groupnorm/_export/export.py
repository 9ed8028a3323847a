"""`tensorflow_groupnorm.export`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
from tfgn_base import names
from tfgn_base.files import whole

from .._keras import on_tensorflow
from . import check, normalizations, onnx, quantization, saved_model, tensorrt, tflite
from .errors import ExportError, first_line
from .litert_group_norm import GroupNormWriter
from .model import (
    computing_in_float32,
    named_signature,
    without_rematerialization,
)
from .quantization import Calibration, Quantization
from .targets import TARGETS

_TARGET_OF = {
    (False, "saved_model"): "saved_model",
    (True, "saved_model"): "saved_model_portable",
    (True, "tflite"): "litert",
    (True, "onnx"): "onnxruntime",
}


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
        target: what it was written for.
        runtime: what ran the file for the comparison, and `executed` is of: `"TensorFlow"`,
            `"TFLite"`, `"ONNX Runtime"` or `"OpenVINO"`.
        fused: for TFLite and ONNX files, the layers whose group normalization is one node of the
            kind that the target asks for, with an entry for each call. For `"onnxruntime"` and
            `"openvino"`, it is one in the graph that the runtime executes.
        unfused: for TFLite and ONNX files, the other layers that normalize groups, and why.
        executed: for TFLite and ONNX files, how many nodes of each type the runtime executes on the
            CPU, those that a composite stands for included. Empty if that is not the runtime that
            the file is for.
        note: what the check leaves open, in a sentence, or an empty string.
        quantization: for int8 files, how many layers are int8, the errors on the calibration data,
            and the sizes; else None.
    """

    path: Path
    format: str
    portable: bool
    custom_ops: tuple[str, ...]
    difference: float | None
    target: str = "saved_model"
    runtime: str = "TensorFlow"
    fused: tuple[str, ...] = ()
    unfused: dict[str, str] = dataclasses.field(default_factory=dict)
    executed: dict[str, int] = dataclasses.field(default_factory=dict)
    note: str = ""
    quantization: Quantization | None = None


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    portable: bool = False,
    format: str = "saved_model",
    *,
    target: str | None = None,
    input_signature: list[Any] | None = None,
    example: Any = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    int8: Any = None,
) -> Exported:
    """Writes a model for serving.

    Standardized kernels are computed once and become constants, so weight standardization costs
    nothing at serving time. The target says how group normalizations are written:

    - `"saved_model"`, the default: the fused GroupNorm op. Serving the model requires the op
      library of this package.
    - `"saved_model_portable"`: stock TensorFlow ops, for TensorFlow without this package and
      TensorFlow Serving.
    - `"litert"`: a TFLite file of builtin operators, with a composite `odml.group_norm` for each,
      by which LiteRT's delegates for GPUs and NPUs know group normalization. On a CPU, the builtin
      operators that the composite stands for are executed.
    - `"onnx"`: an ONNX file with a `GroupNormalization` node for each. ONNX Runtime expands it to
      primitive operators, with a variance that is inaccurate where the mean is many times the
      standard deviation.
    - `"onnxruntime"`: an ONNX file with an `InstanceNormalization` node for each, of which ONNX
      Runtime has a kernel. It is the faster and the more accurate one there.
    - `"openvino"`: an ONNX file of opset 18 with an `InstanceNormalization` node for each, which
      OpenVINO executes as its operation MVN. It is run in OpenVINO.
    - `"tensorrt"`: an ONNX file of opset 18 with an `InstanceNormalization` node for each, of which
      TensorRT's parser makes a normalization layer. It is run in ONNX Runtime, not in TensorRT.

    Before the export is moved to `path`, it is loaded and run on a batch, and its outputs are
    compared with those of the model. If a fused model does not run on this machine on random
    numbers, it is exported without the comparison, and a warning says so. The model itself does not
    change.

    A SavedModel has the endpoint `serve` and the signature `serving_default`, as from
    `keras.Model.export`. It accepts any batch size, unless the model runs only with the one that
    it declares. Its file `assets.extra/tensorflow_groupnorm.json` lists the custom ops, and the
    packages and versions that it requires. TFLite and ONNX files compute in float32, whatever the
    dtype policy of the model. ONNX files have opset 21 unless stated otherwise and compute in NCHW,
    with transpositions where the model's own layout is needed: at inputs, outputs and layers
    without a layout. The returned `Exported` tells which normalizations are one node, and why
    others are not.

    Args:
        model: a built `keras.Model`: Functional, Sequential, or subclassed and called once.
        path: the directory of the SavedModel, or the file, to write.
        portable: with `format`, another way to give the target: `portable=True` is
            `"saved_model_portable"`.
        format: `"tflite"` with `portable=True` is the target `"litert"`, and `"onnx"` with
            `portable=True` the target `"onnxruntime"`.
        target: as described above, instead of `portable` and `format`.
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
        int8: calibration data, for TFLite and ONNX files whose convolutions and matrix
            multiplications are int8: an array `[samples, ...]`, or a dict from the names of the
            inputs to such arrays. At least 8 samples, better 100 or more that represent what the
            model will see. Normalizations and activations stay in float32. The outputs of the int8
            file are compared on the calibration data, where `tolerance` is the largest root mean
            square of the difference, relative to that of the outputs, by default 0.5. The result's
            `quantization` has what was found, and `difference` is that of the float32 file before.

    Returns:
        An `Exported` with what was written and the difference that was found.

    Raises:
        ExportError: if the input shapes of the model are unknown, the model does not run on the
            batch, has outputs that are no tensors, calls custom ops by their raw names although
            `portable` is set, or has ops that the format does not support; or if the export differs
            from the model by more than `tolerance`; or if `int8` does not fit the inputs or has too
            few samples. No file is written.
        FileExistsError: if `path` exists and `overwrite` is not set, or if `path` is a directory
            that does not hold a SavedModel.
        NotADirectoryError: if a parent of `path` is a file.
        OSError: if the export cannot be written, as on a full disk.
        ImportError: if the format needs a package that is not installed.
        RuntimeError: if Keras does not run on TensorFlow.
        TypeError: if `model` is not a `keras.Model`.
        ValueError: if another argument is invalid.
    """
    path = Path(path)
    target = _target(portable, format, target)
    format = names.TARGETS[target]
    _check_arguments(model, target)
    if int8 is not None:
        quantization.check_target(target)
    _check_target(path, overwrite)
    # The runtimes of TFLite and ONNX files have convolutions only in float32.
    precision: contextlib.AbstractContextManager[None]
    precision = contextlib.nullcontext() if format == "saved_model" else computing_in_float32(model)
    with precision, without_rematerialization(model):
        signature = named_signature(model, input_signature)
        if int8 is not None and example is None:
            example = functools.partial(Calibration.example_of, int8)
        try:
            signature, batch, expected = check.on_a_batch(
                model, signature, input_signature, example
            )
        except ExportError as error:
            if target != "saved_model" or example is not None:
                raise
            warnings.warn(f"The export is not compared with the model. {error}", stacklevel=2)
            expected = None
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as unfinished, TemporaryDirectory(dir=unfinished.parent) as folder:
            written = _write(model, signature, Path(folder), target)
            if expected is not None:
                actual = _run(written.path, target, check.by_name(signature, batch))
                difference = check.largest_difference(expected, actual)
                if int8 is None:
                    check.require(difference, tolerance, model, "The export")
                written = dataclasses.replace(written, difference=difference)
            if int8 is not None:
                data = Calibration(signature, int8)
                written = _quantized(model, Path(folder), written, data, tolerance)
            os.replace(written.path, unfinished)
    return dataclasses.replace(written, path=path)


def _target(portable: bool, format: str, target: str | None) -> str:
    if target is not None:
        if target not in TARGETS:
            raise ValueError(f"`target` must be one of {', '.join(TARGETS)}. Received: {target!r}")
        if portable or format != "saved_model":
            raise ValueError(
                "`target` replaces `portable` and `format`: give one or the others. Received: "
                f"target={target!r}, portable={portable!r}, format={format!r}"
            )
        return target
    if format not in names.FORMATS:
        raise ValueError(
            f"`format` must be one of {', '.join(names.FORMATS)}. Received: {format!r}"
        )
    if (bool(portable), format) not in _TARGET_OF:
        raise ValueError(
            f"format={format!r} needs portable=True: its runtimes do not have the fused ops. "
            "(`target` says both in one word.)"
        )
    return _TARGET_OF[bool(portable), format]


def _check_arguments(model: keras.Model, target: str) -> None:
    if not on_tensorflow():
        raise RuntimeError(
            "export needs Keras on TensorFlow (KERAS_BACKEND=tensorflow). "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if names.TARGETS[target] == "onnx":
        onnx.require("openvino" if target == "openvino" else "onnxruntime")


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


def _write(model: keras.Model, signature: list[Any], folder: Path, target: str) -> Exported:
    """Writes the model into a directory."""
    saved, format = folder / "saved_model", names.TARGETS[target]
    writer = GroupNormWriter() if format == "tflite" else None
    custom_ops = saved_model.write(
        model, signature, saved, stock=TARGETS[target].stock, group_norm=writer
    )
    left = set() if format == "saved_model" else {"GroupNorm"}
    if target != "saved_model" and set(custom_ops) - left:
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
    exported = Exported(
        saved,
        format,
        target != "saved_model",
        tuple(custom_ops),
        None,
        target,
        TARGETS[target].runtime,
    )
    if format == "saved_model":
        return exported
    exported = dataclasses.replace(exported, path=folder / f"model.{format}", custom_ops=())
    if writer is not None:
        converted = tflite.convert(saved, exported.path)
        account = normalizations.account_of_composites(model, converted, writer.unfused)
        return dataclasses.replace(
            exported,
            fused=account.fused,
            unfused=account.unfused,
            executed=converted.executed,
        )
    return _write_onnx(model, saved, exported)


def _write_onnx(model: keras.Model, saved: Path, exported: Exported) -> Exported:
    """Converts a SavedModel; returns the account of its normalizations, too."""
    target = TARGETS[exported.target]
    found = onnx.convert(saved, exported.path, target.node, target.opset)
    if exported.target == "tensorrt":
        tensorrt.check(exported.path)
    try:
        execution = target.module.execution(exported.path)
    except Exception as error:
        raise ExportError(
            f"{exported.runtime} cannot run the model after conversion: {first_line(error)}"
        ) from error
    account = normalizations.account(model, found, execution if target.is_asserted else None)
    return dataclasses.replace(
        exported,
        fused=account.fused,
        unfused=account.unfused,
        executed={} if target.note else execution.counts(),
        note=target.note,
    )


def _quantized(
    model: keras.Model,
    folder: Path,
    written: Exported,
    data: Calibration,
    tolerance: float | None,
) -> Exported:
    """Replaces the file of an export by an int8 one."""
    target = TARGETS[written.target]
    found, executed = quantization.quantize(
        model, folder / "saved_model", written.path, target, data, tolerance
    )
    return dataclasses.replace(written, quantization=found, executed=executed)


def _run(written: Path, target: str, inputs: dict[str, Any]) -> dict[str, Any]:
    reasons: list[str] = []
    try:
        call: Callable[..., dict[str, Any]] = TARGETS[target].module.load(written)
        outputs = check.under_xla_if_needed(call, reasons.append)(inputs)
    except Exception as error:
        raise ExportError(f"The exported model does not run: {first_line(error)}") from error
    for reason in reasons:
        warnings.warn(
            "TensorFlow runs the exported model on this machine only under XLA (jit_compile=True), "
            f"with which it was checked: {reason}",
            stacklevel=3,
        )
    return outputs
