"""What the layers of all normalizations share: parameters of channels, float32 arithmetic."""

from __future__ import annotations

from typing import Any

import keras


class ChannelLayer(keras.layers.Layer):
    """A layer with parameters for each channel of images, channels last.

    It computes in float32, whatever the dtype policy: `compute` is given float32, and what it
    returns is cast to the compute dtype.
    """

    def channel_weight(self, name: str, channels: int, initializer: Any, **options: Any) -> Any:
        """Returns a new weight of shape `[channels]`."""
        return self.add_weight(
            name=name, shape=(channels,), initializer=initializer, autocast=False, **options
        )

    def compute(self, x: Any, training: bool) -> Any:
        """Returns the output, float32.

        Args:
            x: float32 `[N, height, width, channels]`.
            training: whether the layer is trained.
        """
        raise NotImplementedError

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Computes in float32; see `compute`."""
        outputs = self.compute(keras.ops.cast(inputs, "float32"), training)
        return keras.ops.cast(outputs, self.compute_dtype)


class ScaleAndShift(ChannelLayer):
    """`gamma * x + beta`.

    Args:
        gamma_initializer: initializer of gamma.
        **options: keyword arguments of a layer.
    """

    def __init__(self, gamma_initializer: Any = "ones", **options: Any):
        """See the class."""
        super().__init__(**options)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the weights."""
        self.gamma = self.channel_weight("gamma", input_shape[-1], self.gamma_initializer)
        self.beta = self.channel_weight("beta", input_shape[-1], "zeros")

    def compute(self, x: Any, training: bool) -> Any:
        """Scales and shifts each channel."""
        return x * self.gamma + self.beta


class Grouped:
    """What stands for each normalization of a network, with groups.

    Args:
        groups: number of groups, or `None`.
        group_size: channels per group, instead of `groups`.
    """

    use_bias = False

    def __init__(self, groups: int | None, group_size: int | None):
        """See the class."""
        self._groups, self._group_size = groups, group_size


def add(x: keras.KerasTensor, residual: keras.KerasTensor | None, name: str) -> keras.KerasTensor:
    """Returns x plus the residual, if there is one."""
    if residual is None:
        return x
    return keras.layers.Add(name=f"{name}_add")([x, residual])


def relu(x: keras.KerasTensor, activation: str | None, name: str) -> keras.KerasTensor:
    """Returns `activation(x)`, where the network has one."""
    if activation is None:
        return x
    return keras.layers.Activation(activation, name=f"{name}_{activation}")(x)
