"""Which activations are part of the kernel, under the names that Keras and TensorFlow give them."""

import keras
import tensorflow as tf

from ._dtypes import common_dtype

#: The activations of the kernel, by the function that a layer keeps as its `activation`.
FUSED = {
    keras.activations.linear: "linear",
    keras.activations.relu: "relu",
    keras.activations.silu: "silu",
}

_SAME = {
    keras.activations.linear: (tf.identity,),
    keras.activations.relu: (keras.ops.relu, tf.nn.relu),
    keras.activations.silu: (keras.ops.silu, keras.ops.swish, tf.nn.silu, tf.nn.swish),
}


def resolve(activation, dtype):
    """Returns the function that `activation` means.

    For whatever computes what a function of `FUSED` computes (`tf.nn.relu`, `keras.ops.silu`, a
    layer `ReLU()` or `Activation("relu")`) that function, so that it is fused and saved by name.

    Args:
        activation: what Keras takes as an activation, a layer among it, or `None`.
        dtype: in which the layer computes that is to apply it.

    Raises:
        ValueError: for anything else.
    """
    activation = keras.activations.get(activation)
    for function, others in _SAME.items():
        if any(activation is other for other in others):
            return function
    if isinstance(activation, keras.layers.Layer) and _adds_nothing(activation, dtype):
        return _of_layer(activation, dtype)
    return activation


def _adds_nothing(layer, dtype):
    """Whether a layer applies its function only: it neither rounds nor adds to the losses."""
    rounds = common_dtype(layer.compute_dtype, dtype) != layer.compute_dtype
    return not rounds and layer.activity_regularizer is None


def _of_layer(layer, dtype):
    if type(layer) is keras.layers.ReLU:
        plain = not layer.negative_slope and not layer.threshold and layer.max_value is None
        return keras.activations.relu if plain else layer
    if type(layer) is keras.layers.Activation:
        function = resolve(layer.activation, dtype)
        return function if function in FUSED else layer
    return keras.activations.linear if type(layer) is keras.layers.Identity else layer
