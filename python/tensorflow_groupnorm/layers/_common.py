"""What all layers ask of the package and of Keras."""

import functools

import keras

from .. import _library

PACKAGE = "tensorflow_groupnorm"

register = functools.partial(keras.saving.register_keras_serializable, package=PACKAGE)


def on_tensorflow():
    """Whether Keras runs on its TensorFlow backend, the one that has the ops."""
    return keras.backend.backend() == "tensorflow"


def supports_jit():
    """Whether the functions of `ops` compile under XLA: fused with XLA kernels, or stock."""
    return _library.load() is None or _library.xla_error() is None
