"""Compares an export, or another model, with the model it was made from, on one batch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from .errors import ExportError, first_line
from .model import compute_dtype, named_outputs, with_declared_batch

# Largest differences, relative to the largest magnitude of an output. Runtimes sum float32 in
# different orders; the op stores epsilon as a float32 for float64 inputs too; a layer in half
# precision rounds to 11 or 8 bits, and the layers after it amplify that.
_TOLERANCES = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}

_BATCH = 2
_UNKNOWN_SIZE = 64

# What TensorFlow says of a kernel that it lacks. Not all such errors are an UnimplementedError, and
# XLA must not take over for other errors: it reads another element for an index out of range.
_NO_KERNEL = re.compile(r"only supports (the )?ND?HWC|CPU implementations do not yet support")

_Outputs = TypeVar("_Outputs")


def require(
    difference: float, tolerance: float | None, model: keras.Model, what: str, hint: str = ""
) -> None:
    """Raises ExportError if a difference is too large.

    Args:
        difference: of `largest_difference`.
        tolerance: the largest one to accept; None for that of the dtype of the model.
        model: the model.
        what: what differs from it, as the subject of the sentence.
        hint: what follows the sentence.
    """
    if tolerance is None:
        tolerance = _TOLERANCES[compute_dtype(model)]
    if not difference <= tolerance:
        raise ExportError(
            f"{what} differs from the model {model.name}: the largest difference is "
            f"{difference:.2g} of the largest magnitude of an output; the tolerance is "
            f"{tolerance:g}.{hint}"
        )


def as_batch(signature: list[Any], example: Any = None) -> list[Any]:
    """Returns the batch to compare on: the example, or two random samples.

    Args:
        signature: of `named_signature`.
        example: a structure of arrays like the model's input, or a tuple of them for several
            positional arguments. If None, floats are drawn from the standard normal distribution
            and integers from 0 and 1, which are valid as indices almost everywhere. Unknown sizes
            are 64. Or a function that returns an example for a signature.

    Returns:
        A list of structures of tensors, one per positional argument.

    Raises:
        ExportError: if the example does not fit the signature, or if one is needed and None is
            given.
    """
    if example is None:
        generator = np.random.default_rng(0)
        return keras.tree.map_structure(lambda spec: _random(spec, generator), signature)
    if callable(example):
        example = example(signature)
    example = list(example) if isinstance(example, tuple) else [example]
    try:
        return keras.tree.map_structure(
            lambda spec, value: tf.ensure_shape(
                tf.convert_to_tensor(value, spec.dtype), spec.shape
            ),
            signature,
            example,
        )
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ExportError(
            f"The example does not fit the model's input {signature}: {first_line(error)}"
        ) from error


def example_of(signature: list[Any], arrays: np.ndarray | dict[str, np.ndarray]) -> tuple[Any, ...]:
    """Returns arrays in the structure in which `as_batch` takes an example.

    Args:
        signature: of `named_signature`.
        arrays: a dict from the names in the signature to arrays, or one array for one name.

    Returns:
        A tuple of structures of arrays, one per positional argument.

    Raises:
        ExportError: if the names are not those of the signature.
    """
    names = [spec.name for spec in keras.tree.flatten(signature)]
    if not isinstance(arrays, dict):
        if len(names) != 1:
            raise ExportError(
                f"The model has {len(names)} inputs and the example is one array: give an .npz "
                f"file with the arrays {', '.join(names)}."
            )
        arrays = {names[0]: arrays}
    if arrays.keys() != set(names):
        raise ExportError(
            f"The example must hold the arrays {', '.join(names)}, named as the inputs of the "
            f"model. It holds {', '.join(arrays) or 'none'}."
        )
    return tuple(keras.tree.pack_sequence_as(signature, [arrays[name] for name in names]))


def _random(spec: tf.TensorSpec, generator: np.random.Generator) -> tf.Tensor:
    if spec.shape.rank is None or spec.dtype == tf.string:
        raise ExportError(
            f"No random batch can be made for an input of shape {spec.shape} and dtype "
            f"{spec.dtype.name}: give a batch to check the export on, as `example` "
            "(--example FILE on the command line)."
        )
    shape = [_UNKNOWN_SIZE if size is None else size for size in spec.shape]
    if shape and spec.shape[0] is None:
        shape[0] = _BATCH
    if spec.dtype.is_floating:
        return tf.constant(generator.standard_normal(shape), spec.dtype)
    return tf.cast(generator.integers(0, 2, shape), spec.dtype)


def by_name(signature: list[Any], batch: list[Any]) -> dict[str, tf.Tensor]:
    """Returns the tensors of a batch, keyed by the names in its signature."""
    names = [spec.name for spec in keras.tree.flatten(signature)]
    return dict(zip(names, keras.tree.flatten(batch), strict=True))


def lacks_kernel(error: tf.errors.OpError) -> bool:
    """Returns whether an error says that TensorFlow lacks a kernel, which XLA may have."""
    missing = isinstance(error, tf.errors.UnimplementedError)
    return missing or _NO_KERNEL.search(error.message) is not None


def under_xla_if_needed(
    function: Callable[..., _Outputs], report: Callable[[str], Any] | None = None
) -> Callable[..., _Outputs]:
    """Returns a function that calls another, under XLA where TensorFlow lacks a kernel.

    TensorFlow itself has no convolution of `channels_first` and no dilated transposed one on CPUs.
    oneDNN has them, which TensorFlow uses in graphs, but by default only on newer x86 processors.
    XLA has them on all.

    Args:
        function: of tensors.
        report: is called with the reason after a call under XLA.
    """
    compiled = tf.function(function, jit_compile=True)

    def call(*args: Any) -> _Outputs:
        try:
            return function(*args)
        except tf.errors.OpError as error:
            if not lacks_kernel(error):
                raise
            try:
                outputs: _Outputs = compiled(*args)
            except tf.errors.OpError:
                raise error from None
            if report is not None:
                report(first_line(error))
            return outputs

    return call


def run_model(model: keras.Model, batch: list[Any]) -> dict[str, tf.Tensor]:
    """Returns the outputs of the model, keyed by the names that a signature gives them.

    Raises:
        ExportError: if the model does not run on the batch.
    """
    try:
        # In a graph, like the export.
        function = tf.function(lambda: named_outputs(model(*batch, training=False)))
        outputs = under_xla_if_needed(function)()
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"The model {model.name} does not run on the batch that the export is checked on: "
            f"{first_line(error)} (`example`, or --example FILE, gives another batch)"
        ) from error
    return outputs


def on_a_batch(
    model: keras.Model, signature: list[Any], given: list[Any] | None, example: Any
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Returns the signature, a batch that fits it and the outputs of the model on that batch.

    If the model runs only with the batch size that it declares, the signature has that size.
    """
    try:
        batch = as_batch(signature, example)
        return signature, batch, run_model(model, batch)
    except ExportError:
        declared = with_declared_batch(model, signature)
        if given is not None or declared == signature:
            raise
        batch = as_batch(declared, example)
        return declared, batch, run_model(model, batch)


def largest_difference(expected: dict[str, Any], actual: dict[str, Any]) -> float:
    """Returns the largest difference of an output, relative to its largest magnitude.

    The difference is infinite if names, shapes or the positions of finite numbers differ, or if
    outputs that are not numbers differ.
    """
    if expected.keys() != actual.keys():
        return math.inf
    return max((_difference(_array(expected[k]), _array(actual[k])) for k in expected), default=0.0)


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor)


def _difference(expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.shape != actual.shape:
        return math.inf
    if expected.dtype.kind not in "fiu":
        return 0.0 if np.array_equal(expected, actual) else math.inf
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(expected)
    if not (
        np.isfinite(actual[finite]).all()
        and np.array_equal(expected[~finite], actual[~finite], equal_nan=True)
    ):
        return math.inf
    difference = np.abs(expected[finite] - actual[finite]).max(initial=0.0)
    return float(difference / (np.abs(expected[finite]).max(initial=0.0) or 1.0))
