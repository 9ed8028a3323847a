"""Checks that all layers share."""

from __future__ import annotations

import sys
from typing import Any

import keras

from .. import _library

# The module of tf-keras that knows which layer is being called. Importing tf-keras imports it.
_TF_KERAS_CALLS = "tf_keras.src.engine.base_layer_utils"


def supports_jit() -> bool:
    """Whether the functions of `ops` compile under XLA: fused with XLA kernels, or stock."""
    return _library.load() is None or _library.xla_error() is None


def refuse_tf_keras(layer: keras.layers.Layer, inputs: Any) -> None:
    """Raises TypeError if a tf-keras model calls a layer. Call it first in `call`.

    tf-keras runs a Keras 3 layer without an error, but neither trains nor saves its weights. If
    tf-keras is not imported, this costs one dictionary lookup.

    Args:
        layer: the layer that is called.
        inputs: its inputs, tensors in any structure.
    """
    if _TF_KERAS_CALLS not in sys.modules:
        return
    context = sys.modules[_TF_KERAS_CALLS].call_context()
    if context.in_call:
        received = f"a call of {layer.name} by the tf-keras layer {context.layer.name}"
    elif any(type(x).__module__.startswith("tf_keras.") for x in keras.tree.flatten(inputs)):
        received = f"a call of {layer.name} on a tensor of a tf-keras model"
    else:
        return
    raise TypeError(
        f"{layer!r} is a Keras 3 layer: a tf-keras model would neither train nor save its "
        "weights. Build the model with Keras 3 (`import keras`), or convert a saved one with "
        f"`tfgn convert old.h5 new.keras`. Received: {received}"
    )
