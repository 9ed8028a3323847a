"""Quantizes TFLite and ONNX files to int8, and measures what that does to the outputs.

Convolutions and matrix multiplications become int8, with a scale for each output channel of a
kernel and one for each of their inputs and outputs. Everything between them stays in float32, group
normalizations in particular: their statistics depend on the input, so no range is known for what
they compute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tfgn_base import names

from . import check, tflite
from .errors import ExportError, first_line
from .model import named_outputs

#: The largest error by default. Outputs that have nothing to do with those of the model have one of
#: 1 or more. Untrained networks amplify rounding most: ResNet50V2 had 0.23, MobileNetV2 0.30.
LARGEST_ERROR = 0.5

#: Ranges of fewer samples leave out too much of what the network sees later.
FEWEST_SAMPLES = 8

_BATCH = 8

_LITERT = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
_ONNX = ("Conv", "MatMul", "Gemm")

# What ONNX Runtime executes instead of them.
_ONNX_INT8 = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat")


@dataclasses.dataclass(frozen=True)
class Quantization:
    """An int8 file beside the float32 one, on the samples that it was calibrated with.

    On other samples, errors are larger if these do not represent them.

    Attributes:
        layers: how many convolutions and matrix multiplications the runtime executes in int8.
        samples: the number of samples.
        error: the root mean square of the difference from the outputs of the model in float32,
            relative to the root mean square of the outputs; the largest of all outputs.
        agreement: for outputs `[batch, classes]`, the share of samples for which the class with the
            largest output is the same; the smallest of all such outputs. None without any.
        float_bytes: the size of the float32 file.
        int8_bytes: the size of the int8 file.
    """

    layers: int
    samples: int
    error: float
    agreement: float | None
    float_bytes: int
    int8_bytes: int


class Calibration:
    """Samples of the inputs of a model.

    Args:
        signature: of `named_signature`.
        data: an array `[samples, ...]` for a model with one input, or a dict from the names of the
            inputs to such arrays.

    Raises:
        ExportError: if the names or shapes are not those of the inputs, or if there are too few
            samples.
    """

    def __init__(self, signature: list[Any], data: Any) -> None:
        self._signature = signature
        self._specs = keras.tree.flatten(signature)
        self._arrays = self._checked(data)
        self.samples = len(next(iter(self._arrays.values())))
        fixed = {spec.shape[0] for spec in self._specs} - {None}
        self._is_fixed = bool(fixed)
        self._batch = min(fixed) if fixed else _BATCH
        fewest = max(FEWEST_SAMPLES, self._batch if fixed else 0)
        if self.samples < fewest:
            raise ExportError(
                f"int8 needs at least {fewest} samples of calibration data, and better 100 or more "
                f"that represent what the model will see. Received: {self.samples}"
            )
        # A file with a fixed batch size takes no smaller batch.
        self.samples -= self.samples % self._batch if fixed else 0

    def _checked(self, data: Any) -> dict[str, np.ndarray]:
        inputs = [spec.name for spec in self._specs]
        if not isinstance(data, dict):
            if len(inputs) != 1:
                raise ExportError(
                    f"The model has {len(inputs)} inputs: give calibration data as a dict, or an "
                    f".npz file, of the arrays {', '.join(inputs)}."
                )
            data = {inputs[0]: data}
        if data.keys() != set(inputs):
            raise ExportError(
                f"The calibration data must hold the arrays {', '.join(inputs)}, named as the "
                f"inputs of the model. They hold {', '.join(map(str, data)) or 'none'}."
            )
        arrays = {}
        for spec in self._specs:
            arrays[spec.name] = array = np.asarray(data[spec.name])
            expected = tf.TensorShape([None, *spec.shape[1:]])
            if not expected.is_compatible_with(array.shape):
                raise ExportError(
                    f"The calibration data for {spec.name} must have the shape [samples, "
                    f"{', '.join('any' if n is None else str(n) for n in spec.shape[1:])}]. "
                    f"Received: {list(array.shape)}"
                )
            if array.dtype.kind not in "biuf":
                raise ExportError(
                    f"The calibration data for {spec.name} must be numbers. Received: {array.dtype}"
                )
            arrays[spec.name] = array.astype(spec.dtype.as_numpy_dtype)
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ExportError(
                "The calibration data must have the same number of samples for each input. "
                f"Received: {lengths}"
            )
        return arrays

    @classmethod
    def example_of(cls, data: Any, signature: list[Any]) -> tuple[Any, ...]:
        """Returns two samples, or a batch of the fixed size, as `check.as_batch` takes them."""
        samples = cls(signature, data)
        size = samples._batch if samples._is_fixed else 2
        return tuple(samples._packed({k: array[:size] for k, array in samples._arrays.items()}))

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields batches of the samples, as dicts from names of inputs to arrays."""
        for start in range(0, self.samples, self._batch):
            end = min(start + self._batch, self.samples)
            yield {name: array[start:end] for name, array in self._arrays.items()}

    def _packed(self, batch: dict[str, np.ndarray]) -> list[Any]:
        values = [batch[spec.name] for spec in self._specs]
        packed: list[Any] = keras.tree.pack_sequence_as(self._signature, values)
        return packed

    def outputs(self, model: keras.Model) -> Iterator[dict[str, np.ndarray]]:
        """Yields the outputs of a model for each batch, by name."""
        function = tf.function(
            lambda *inputs: named_outputs(model(*inputs, training=False)), reduce_retracing=True
        )
        call = check.under_xla_if_needed(function)
        for batch in self.batches():
            tensors = keras.tree.map_structure(tf.convert_to_tensor, self._packed(batch))
            yield {name: np.asarray(y) for name, y in call(*tensors).items()}


def quantize(
    model: keras.Model,
    saved_model: Path,
    path: Path,
    target: Any,
    calibration: Calibration,
    largest_error: float | None = None,
) -> tuple[Quantization, dict[str, int]]:
    """Replaces a float32 file by an int8 one.

    Args:
        model: what was exported, computing in float32.
        saved_model: what the file was converted from.
        path: the file.
        target: the `Target` of the export.
        calibration: the samples whose ranges count, and on which the outputs are compared.
        largest_error: the largest `Quantization.error` to accept; None for `LARGEST_ERROR`.

    Returns:
        What was found, and how many nodes of each type the runtime executes; see `Exported`.

    Raises:
        ExportError: if the file cannot be quantized, does not run, has no layer in int8, or has too
            large an error.
    """
    float_bytes = path.stat().st_size
    write = _write_tflite if path.suffix == ".tflite" else _write_onnx
    try:
        write(saved_model, path, calibration)
        executed = _executed(path, target)
        layers = _layers_of_tflite(path) if path.suffix == ".tflite" else _layers_of_onnx(executed)
        actual = target.module.load(path)
        error, agreement = _compare(model, actual, calibration)
    except ExportError:
        raise
    except Exception as problem:
        raise ExportError(f"The model cannot be quantized: {first_line(problem)}") from problem
    if not layers:
        raise ExportError("No layer of the model can be executed in int8.")
    limit = LARGEST_ERROR if largest_error is None else largest_error
    if not error <= limit:
        raise ExportError(
            f"The int8 file differs too much from the model {model.name}: the error is {error:.2g} "
            f"of the outputs (root mean squares), on the calibration data; the limit is {limit:g}. "
            "More or other calibration data may help."
        )
    found = Quantization(
        layers, calibration.samples, error, agreement, float_bytes, path.stat().st_size
    )
    return found, executed


def _compare(
    model: keras.Model, actual: Callable[[dict[str, Any]], Any], calibration: Calibration
) -> tuple[float, float | None]:
    """Returns the error and the agreement; see `Quantization`."""
    squares: dict[str, np.ndarray] = {}
    agrees: dict[str, int] = {}
    for batch, expected in zip(calibration.batches(), calibration.outputs(model), strict=True):
        outputs = actual({name: tf.constant(array) for name, array in batch.items()})
        for name, y in expected.items():
            if y.dtype.kind != "f":
                continue
            z = np.asarray(outputs[name], np.float64)
            sums = [np.square(z - y).sum(), np.square(y.astype(np.float64)).sum()]
            squares[name] = squares.get(name, 0) + np.array(sums)
            if y.ndim == 2 and y.shape[1] > 1:
                same = (z.argmax(1) == y.argmax(1)).sum()
                agrees[name] = agrees.get(name, 0) + int(same)
    errors = [
        math.sqrt(difference / (size or 1.0)) if np.isfinite(difference) else math.inf
        for difference, size in squares.values()
    ]
    shares = [number / calibration.samples for number in agrees.values()]
    return max(errors, default=0.0), min(shares, default=None)


# TFLite


def _write_tflite(saved_model: Path, path: Path, calibration: Calibration) -> None:
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.python.optimize import calibrator
    from tensorflow.lite.tools import flatbuffer_utils

    from . import litert_composites

    def batches() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        return (("serving_default", batch) for batch in calibration.batches())

    with warnings.catch_warnings():
        # The calibrator uses TensorFlow's interpreter.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        observed = calibrator.Calibrator(path.read_bytes()).calibrate(batches)
    ranges = {
        tensor.name: tensor.quantization
        for tensor in flatbuffer_utils.read_model_from_bytearray(bytearray(observed))
        .subgraphs[0]
        .tensors
        if tensor.quantization is not None and tensor.quantization.min is not None
    }
    # The quantizer does not read composites. It leaves the custom ops alone that they replace.
    content = tflite.converted(saved_model)
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for tensor in model.subgraphs[0].tensors:
        tensor.quantization = ranges.get(tensor.name, tensor.quantization)
    kinds = {kind for kind in vars(schema.BuiltinOperator) if kind.isupper()}
    quantized = mlir_quantize(
        bytes(flatbuffer_utils.convert_object_to_bytearray(model)),
        denylisted_ops=sorted(kinds - {*_LITERT, "QUANTIZE", "DEQUANTIZE"}),
    )
    path.write_bytes(litert_composites.with_composites(quantized)[0])


def _executed(path: Path, target: Any) -> dict[str, int]:
    if path.suffix == ".tflite":
        from . import litert_composites

        return litert_composites.read(path).executed
    counts: dict[str, int] = target.module.execution(path).counts()
    return counts


def _layers_of_onnx(executed: dict[str, int]) -> int:
    """Returns how many layers of a file are executed in int8."""
    return sum(executed.get(kind, 0) for kind in _ONNX_INT8)


def _layers_of_tflite(path: Path) -> int:
    """Returns how many layers of a file are executed in int8."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
    codes = {getattr(schema.BuiltinOperator, kind) for kind in _LITERT}
    return sum(
        model.operatorCodes[operator.opcodeIndex].builtinCode in codes
        and graph.tensors[operator.outputs[0]].type == schema.TensorType.INT8
        for graph in model.subgraphs
        for operator in graph.operators
    )


# ONNX


def _write_onnx(saved_model: Path, path: Path, calibration: Calibration) -> None:
    import onnx
    from onnxruntime import quantization

    del saved_model
    batches = calibration.batches()

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    model = onnx.load(path)
    _declare_inputs(model)
    quantized = path.with_suffix(".int8")
    with _without_advice():
        quantization.quantize_static(
            model,
            quantized,
            Reader(),
            per_channel=True,
            op_types_to_quantize=list(_ONNX),
            # ONNX Runtime's kernels for x86 take unsigned activations and signed kernels.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    os.replace(quantized, path)


def _declare_inputs(model: Any) -> None:
    """Declares the dtype of what convolutions read, in place.

    The quantizer observes only tensors of a known dtype, and the inference of dtypes stops at a
    GroupNormalization.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name for value in [*graph.value_info, *graph.input, *graph.output]}
    known |= {value.name for value in graph.initializer}
    for node in graph.node:
        for name in [*node.input, *node.output] if node.op_type in _ONNX else ():
            if name and name not in known:
                known.add(name)
                value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                model.graph.value_info.append(value)


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keeps ONNX Runtime from advising a preparation that tf2onnx has done, in a `with` block."""
    logger = logging.getLogger()
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)


def check_target(target: str) -> None:
    """Raises ValueError unless files for a target can be int8."""
    if target not in names.INT8_TARGETS:
        raise ValueError(
            f"int8 is for the targets {', '.join(names.INT8_TARGETS)}. Received: target={target!r}"
        )
