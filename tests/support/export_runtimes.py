"""Runs exported files in their runtimes, by the names of inputs and outputs."""

import re
import warnings

import numpy as np
import onnxruntime
import openvino
import tensorflow as tf


def by_name(model, inputs):
    """Inputs of a model, as positional arguments, by the names that an export gives them."""
    tensors = tf.nest.flatten(inputs)
    names = [f"args_{i}" for i in range(len(tensors))]
    if hasattr(model, "inputs"):  # Functional and Sequential have them.
        names = [re.sub(r"\W", "_", tensor.name) for tensor in model.inputs]
    return dict(zip(names, map(np.asarray, tensors), strict=True))


def outputs_by_name(outputs):
    """Outputs of a model by the names that a signature gives them."""
    if isinstance(outputs, dict):
        return outputs
    return {f"output_{i}": tensor for i, tensor in enumerate(tf.nest.flatten(outputs))}


def _run_saved_model(path, feed):
    return tf.saved_model.load(path).signatures["serving_default"](
        **{name: tf.constant(value) for name, value in feed.items()}
    )


def _run_tflite(path, feed):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        interpreter = tf.lite.Interpreter(str(path))
    kinds = {details["op_name"] for details in interpreter._get_ops_details()}
    assert not any(kind.startswith("Flex") for kind in kinds), kinds
    return interpreter.get_signature_runner("serving_default")(**feed)


def _run_onnx(path, feed):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def _run_openvino(path, feed):
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(feed)
    return {name: y for port, y in results.items() for name in port.names}


#: `RUN[format](path, inputs by name) -> outputs by name`. ONNX files run in OpenVINO, too.
RUN = {
    "saved_model": _run_saved_model,
    "tflite": _run_tflite,
    "onnx": _run_onnx,
    "openvino": _run_openvino,
}


def outputs_of(model, inputs):
    """Runs a model in a graph, and under XLA if TensorFlow lacks a kernel.

    Without oneDNN, TensorFlow has no convolution of channels_first and no dilated transposed one on
    CPUs.
    """

    def call():
        return model(*inputs, training=False)

    try:
        return tf.function(call)()
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        return tf.function(call, jit_compile=True)()


def check(model, path, format, inputs, tolerance=1e-5, twin=None):
    """Runs a file and compares its outputs by name with those of the model.

    Args:
        model: what was exported.
        path: the file.
        format: a key of `RUN`.
        inputs: a list of positional arguments of the model.
        tolerance: the largest difference, relative to the largest magnitude of an output.
        twin: a model with the same outputs, for one that computes in another precision.
    """
    reference = twin or model
    expected = outputs_by_name(outputs_of(reference, inputs))
    actual = RUN[format](path, by_name(model, inputs))
    if format == "openvino":  # It has further names for a tensor.
        actual = {name: y for name, y in actual.items() if name in expected}
    assert actual.keys() == expected.keys()
    for name, y in expected.items():
        assert actual[name].shape == y.shape, name
        difference = np.abs(actual[name] - np.asarray(y)).max()
        assert difference <= tolerance * np.abs(y).max(), name
