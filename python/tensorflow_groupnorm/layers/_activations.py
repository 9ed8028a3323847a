"""The activation of a layer: which ones are accepted, which are fused, how they are saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from .._types import Activation, FusedActivation
from ._dtypes import common_dtype

_FUSED: tuple[tuple[Callable[..., Any], FusedActivation], ...] = (
    (keras.activations.linear, "linear"),
    (keras.activations.relu, "relu"),
    (keras.activations.silu, "silu"),
)

# The functions of keras.ops and tf.nn that keras.activations has under the same name and with the
# same definition. keras.ops.gelu differs: it defaults to the tanh approximation.
_SAME = [
    (getattr(module, name), getattr(keras.activations, name))
    for module in (keras.ops, tf.nn)
    for name in dir(keras.activations)
    if not name.startswith("_") and hasattr(module, name) and (module, name) != (keras.ops, "gelu")
]
_SAME.append((tf.identity, keras.activations.linear))


def fused_name(activation: Callable[..., Any]) -> FusedActivation | None:
    """Returns the name that the op gives an activation, None if the op does not have it."""
    return next((name for function, name in _FUSED if function is activation), None)


def resolve(activation: Activation, dtype: str) -> Callable[..., Any]:
    """Returns the function or layer that `activation` stands for.

    Aliases of a function of `keras.activations` (`tf.nn.relu`, `keras.ops.silu`, a layer `ReLU()`
    or `Activation("relu")`) resolve to that function, so that it is fused and saved by name.

    Args:
        activation: anything that Keras accepts as an activation, layers included, or `None`.
        dtype: the compute dtype of the layer that applies the activation.

    Raises:
        ValueError: if Keras does not accept `activation`.
    """
    given: Callable[..., Any] = keras.activations.get(activation)
    if isinstance(given, keras.layers.Layer):
        return _of_layer(given, dtype)
    return next((function for other, function in _SAME if other is given), given)


def _of_layer(layer: keras.layers.Layer, dtype: str) -> Callable[..., Any]:
    rounds = common_dtype(layer.compute_dtype, dtype) != layer.compute_dtype
    if rounds or layer.activity_regularizer is not None:
        return layer
    if type(layer) is keras.layers.ReLU:
        plain = not layer.negative_slope and not layer.threshold and layer.max_value is None
        return keras.activations.relu if plain else layer
    if type(layer) is keras.layers.Activation:
        return resolve(layer.activation, dtype)
    return keras.activations.linear if type(layer) is keras.layers.Identity else layer


def serialize(activation: Callable[..., Any]) -> str | dict[str, Any]:
    """Returns a config from which `keras.activations.get` restores the activation.

    Raises:
        ValueError: if the activation is not registered and shares its name with a function of
            `keras.activations`.
    """
    config: str | dict[str, Any] = keras.activations.serialize(activation)
    if not isinstance(config, str) or keras.activations.get(config) is activation:
        return config
    # Keras saves a function by its bare name if keras.activations has a function of that name.
    registered = keras.saving.get_registered_name(activation)
    if registered == config:
        raise ValueError(
            f"The activation {activation!r} cannot be saved: the name {config!r} stands for "
            f"keras.activations.{config}, another function. Register the activation with "
            "`@keras.saving.register_keras_serializable()`, or give it another name"
        )
    return {**keras.saving.serialize_keras_object(activation), "config": registered}
