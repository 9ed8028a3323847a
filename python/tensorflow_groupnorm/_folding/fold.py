"""`tfgn.fold`."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from .._conversion import copy
from .._conversion.composites import Composites
from .._conversion.convert import check_model
from .._conversion.walk import walk
from .._export import check
from .._export.errors import ExportError
from .._export.model import named_signature, without_rematerialization
from .._keras import on_tensorflow
from .plain import Folder, NotFoldedError, of_this_package


def fold(
    model: keras.Model,
    norm: str | None = "keras",
    *,
    example: Any = None,
    tolerance: float | None = None,
) -> keras.Model:
    """Returns a plain Keras model with the same outputs: standardized kernels become constants.

    >>> plain = tfgn.fold(model)
    >>> plain.quantize("int8")
    >>> plain.save("plain.keras")  # Loads without this package.

    - A `Standardized...` layer becomes the stock layer, with the standardized kernel (times its
      gain) as its kernel.
    - `WeightStandardization(layer)` becomes the layer in it, under the name of the wrapper.
    - `RecomputedNormalization` becomes the layers in it.
    - `GroupNormalization` becomes `keras.layers.GroupNormalization`, followed by the addition of
      the residual and by the activation as layers of their own. The last of them has the name of
      the original layer, so that `get_layer(name).output` is the same tensor. `scale` and `shift`
      become operations of `keras.ops`.
    - A layer or model with a `call` of its own that holds such layers becomes a functional model of
      the layers that it calls. Other layers are copied.

    The new model is compared with the original on a batch, at inference. If no random batch fits
    the inputs and no `example` is given, a warning says that it is not compared.

    The kernels are ordinary variables, and `trainable` is that of the original layers, so the new
    model can be fine-tuned, after quantization for example. It then no longer standardizes its
    kernels. It is not compiled.

    Args:
        model: a built Keras model: functional, `Sequential`, subclassed or nested, of any dtype
            policy. It does not change. LoRA deltas of standardized kernels are merged.
        norm: `"keras"`, or None to keep the fused `GroupNormalization` layers, which are faster in
            TensorFlow. The new model then needs `import tensorflow_groupnorm`.
        example: the batch to compare on, structured like the input of the model. A tuple holds
            several positional arguments. By default, two random samples, with 64 for unknown
            sizes.
        tolerance: the largest difference to accept, relative to the largest magnitude of an output.
            By default 1e-4; for models that compute in float64 1e-6, in float16 1e-2, in bfloat16
            5e-2.

    Returns:
        The new model, with the name of `model`: functional or `Sequential`, of the class of
        `model` if its constructor takes inputs and outputs as that of `keras.Model` does.

    Raises:
        RuntimeError: if Keras does not run on TensorFlow.
        TypeError: if `model` is not a Keras 3 model.
        ValueError: if `model` is not built or cannot be folded, because it leaves masked positions
            out of statistics (`use_mask=True`) or has a `call` that cannot be traced with symbolic
            tensors, for example; or if an argument is invalid.
        ExportError: if the model does not run on `example`, or if the outputs of the new model
            differ by more than `tolerance`.
    """
    if not on_tensorflow():
        raise RuntimeError(
            "fold needs Keras on TensorFlow (KERAS_BACKEND=tensorflow). "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    check_model(model)
    if norm not in ("keras", None):
        raise ValueError(f"`norm` must be 'keras' or None. Received: norm={norm!r}")
    layers = [layer for _, layer in walk(model)]
    with copy.own_objects_known(model), copy.BlankWeights() as blank, Composites(layers):
        folder = Folder(model, norm, blank)
        try:
            new = folder.layer(model)
            folder.copy_weights()
        except copy.NotCopiedError as error:
            raise NotFoldedError(str(error).replace(f"{copy.IN_PLACE} ", "")) from error
    for _, layer in walk(new):
        if of_this_package(layer, norm):
            raise NotFoldedError(
                f"The model {model.name!r} cannot be folded: a layer around {layer.name!r}, a "
                f"{type(layer).__name__} of this package, makes it anew in its constructor."
            )
    with without_rematerialization(model), without_rematerialization(new):
        _compare(model, new, example, tolerance)
    return new


def _compare(model: keras.Model, new: keras.Model, example: Any, tolerance: float | None) -> None:
    signature = named_signature(model)
    try:
        _, batch, expected = check.on_a_batch(model, signature, None, example)
    except ExportError as error:
        if example is not None:
            raise
        warnings.warn(f"The folded model is not compared with the model. {error}", stacklevel=3)
        return
    difference = check.largest_difference(expected, check.run_model(new, batch))
    hint = " (norm=None keeps the fused normalizations.)"
    check.require(difference, tolerance, model, "The folded model", hint)
