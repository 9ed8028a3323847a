"""The activation of a layer: what may be given, what is fused, how it is saved."""

import keras
import tensorflow as tf

from ._dtypes import common_dtype

_FUSED = (
    (keras.activations.linear, "linear"),
    (keras.activations.relu, "relu"),
    (keras.activations.silu, "silu"),
)

# Of keras.ops and tf.nn what keras.activations has under the same name, and by the same definition
# but for keras.ops.gelu, which is the tanh approximation unless told otherwise.
_SAME = [
    (getattr(module, name), getattr(keras.activations, name))
    for module in (keras.ops, tf.nn)
    for name in dir(keras.activations)
    if not name.startswith("_") and hasattr(module, name) and (module, name) != (keras.ops, "gelu")
]
_SAME.append((tf.identity, keras.activations.linear))


def fused_name(activation):
    """Returns the kernel's name of an activation, None for one that it does not have."""
    return next((name for function, name in _FUSED if function is activation), None)


def resolve(activation, dtype):
    """Returns the function that `activation` means.

    For what is a function of `keras.activations` under another name (`tf.nn.relu`,
    `keras.ops.silu`, a layer `ReLU()` or `Activation("relu")`) that function, so that it is fused
    and saved by name.

    Args:
        activation: what Keras takes as an activation, a layer among it, or `None`.
        dtype: in which the layer computes that is to apply it.

    Raises:
        ValueError: for anything else.
    """
    activation = keras.activations.get(activation)
    if isinstance(activation, keras.layers.Layer):
        return _of_layer(activation, dtype)
    return next((function for other, function in _SAME if other is activation), activation)


def _of_layer(layer, dtype):
    rounds = common_dtype(layer.compute_dtype, dtype) != layer.compute_dtype
    if rounds or layer.activity_regularizer is not None:
        return layer
    if type(layer) is keras.layers.ReLU:
        plain = not layer.negative_slope and not layer.threshold and layer.max_value is None
        return keras.activations.relu if plain else layer
    if type(layer) is keras.layers.Activation:
        return resolve(layer.activation, dtype)
    return keras.activations.linear if type(layer) is keras.layers.Identity else layer


def serialize(activation):
    """Returns what `keras.activations.get` makes the activation of again.

    Raises:
        ValueError: for a function that is not registered and has the name of another one.
    """
    config = keras.activations.serialize(activation)
    if not isinstance(config, str) or keras.activations.get(config) is activation:
        return config
    # Keras saves a function by its bare name if keras.activations has one of that name.
    registered = keras.saving.get_registered_name(activation)
    if registered == config:
        raise ValueError(
            f"The activation {activation!r} cannot be saved: the name {config!r} stands for "
            f"keras.activations.{config}, another function. Register it, with "
            "`@keras.saving.register_keras_serializable()`, or give it another name"
        )
    return {**keras.saving.serialize_keras_object(activation), "config": registered}
