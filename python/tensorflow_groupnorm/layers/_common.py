"""What all layers ask of the package and of Keras."""

import functools
import sys

import keras

from .. import _library

PACKAGE = "tensorflow_groupnorm"

register = functools.partial(keras.saving.register_keras_serializable, package=PACKAGE)

# The modules of tf-keras that know what is being called; they are there once it is imported.
_TF_KERAS_CALLS = "tf_keras.src.engine.base_layer_utils"


def on_tensorflow():
    """Whether Keras runs on its TensorFlow backend, the one that has the ops."""
    return keras.backend.backend() == "tensorflow"


def supports_jit():
    """Whether the functions of `ops` compile under XLA: fused with XLA kernels, or stock."""
    return _library.load() is None or _library.xla_error() is None


def refuse_tf_keras(layer, inputs):
    """Raises TypeError if a tf-keras model calls a layer; to be the first line of its `call`.

    tf-keras runs a Keras 3 layer without complaint, but neither trains nor saves its weights.
    Where tf-keras is not imported, this is one look into a dict.

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
