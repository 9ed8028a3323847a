"""A group normalization in stock layers: normalization, addition and activation."""

from __future__ import annotations

from collections.abc import Callable

import keras

from .. import layers
from .._conversion.arguments import config_of
from .._keras import get_keras_mask
from .._types import KerasTensor
from ..layers._dtypes import common_dtype

_ONLY_OURS = ("group_size", "activation", "use_mask")


class PlainNormalization:
    """What stands in a graph for a `GroupNormalization`. The last layer has its name.

    Args:
        layer: the layer; it is built.
        plain: returns the plain counterpart of another layer, of an activation for example.
        new_name: returns a name that is not in use, made from a given one.

    Attributes:
        normalization: the stock layer.
    """

    normalization: keras.layers.GroupNormalization

    def __init__(
        self,
        layer: layers.GroupNormalization,
        plain: Callable[[keras.Layer], keras.Layer],
        new_name: Callable[[str], str],
    ) -> None:
        self._layer = layer
        self._new_name = new_name
        self._name_is_free = True
        self.normalization = _stock(layer)
        self._activation: keras.Layer | None = None
        if isinstance(layer.activation, keras.Layer):
            self._activation = plain(layer.activation)
        elif layer.activation is not keras.activations.linear:
            self._activation = keras.layers.Activation(layer.activation, dtype=layer.dtype_policy)
        if self._activation is not None:
            self._rename(self.normalization, "norm")
            self._activation.name = layer.name
            self._name_is_free = False

    def parts(self) -> list[keras.Layer]:
        """Returns the layers that are used at every call."""
        return [self.normalization] + ([self._activation] if self._activation else [])

    in_a_row = parts

    def alone(self) -> keras.Layer:
        """Returns one layer that does the same for one input."""
        if self._activation is None:
            return self.normalization
        self._rename(self._activation, "activation")
        return keras.Sequential(self.parts(), name=self._layer.name)

    def __call__(
        self,
        inputs: KerasTensor,
        residual: KerasTensor | None = None,
        mask: KerasTensor | None = None,
        scale: KerasTensor | None = None,
        shift: KerasTensor | None = None,
    ) -> KerasTensor:
        del mask  # Without `use_mask`, it is only passed on.
        layer = self._layer
        adapts = scale is not None or shift is not None or residual is not None
        if adapts and self._name_is_free:
            self._rename(self.normalization, "norm")
        if adapts and get_keras_mask(inputs) is not None:
            raise ValueError(
                f"{layer.name!r} cannot be folded: its input has a mask, which it passes on, and "
                "the layers of Keras that stand for its residual, scale or shift do not. "
                "norm=None keeps it."
            )
        dtype = common_dtype(layer.compute_dtype, inputs.dtype)
        y = self.normalization(inputs if inputs.dtype == dtype else self._cast(inputs, dtype))
        if scale is not None:
            factor = self._named(keras.ops.add(self._spread(scale, y), 1), "scale")
            y = self._named(keras.ops.multiply(y, factor), "scaled")
        if shift is not None:
            y = self._named(keras.ops.add(y, self._spread(shift, y)), "shifted")
        if residual is not None:
            y = self._sum(y, residual)
        if self._activation is not None:
            return self._activation(y)
        return self._with_the_name(y) if adapts else y

    def _sum(self, y: KerasTensor, residual: KerasTensor) -> KerasTensor:
        if getattr(residual, "shape", None) != y.shape:
            return self._named(keras.ops.add(y, residual), "add")
        return self._named(keras.layers.Add(dtype=self._layer.dtype_policy)([y, residual]), "add")

    def _with_the_name(self, y: KerasTensor) -> KerasTensor:
        """Returns the result of a layer, as which `get_layer` finds it, in the compute dtype."""
        last = y._keras_history.operation
        if not isinstance(last, keras.Layer):
            last = keras.layers.Activation("linear", dtype=self._layer.dtype_policy)
            y = last(y)
        last.name = self._layer.name if self._name_is_free else self._new_name(self._layer.name)
        self._name_is_free = False
        return y

    def _spread(self, tensor: KerasTensor, y: KerasTensor) -> KerasTensor:
        """Returns a `scale` or `shift` with the rank of the normalized tensor."""
        shape = [1] * len(y.shape)
        if len(tensor.shape) > 1 and tensor.shape[0] != 1:
            shape[0] = -1
        shape[self._layer.axis] = y.shape[self._layer.axis]
        return self._named(keras.ops.reshape(tensor, shape), "reshape")

    def _cast(self, tensor: KerasTensor, dtype: str) -> KerasTensor:
        return self._named(keras.ops.cast(tensor, dtype), "cast")

    def _named(self, tensor: KerasTensor, suffix: str) -> KerasTensor:
        # A number that Keras gives to a new operation may be that of one of the model.
        self._rename(tensor._keras_history.operation, suffix)
        return tensor

    def _rename(self, operation: keras.Operation, suffix: str) -> None:
        operation.name = self._new_name(f"{self._layer.name}_{suffix}")


def _stock(layer: layers.GroupNormalization) -> keras.layers.GroupNormalization:
    config = {key: value for key, value in config_of(layer).items() if key not in _ONLY_OURS}
    config["groups"] = layer.groups
    if layer.built:
        # The stock layer takes no negative axis but -1.
        rank = layer.input_spec.ndim
        axis = layer.axis % rank
        config["axis"] = -1 if axis == rank - 1 else axis
    return keras.layers.GroupNormalization.from_config(config)
