"""Filter Response Normalization (Singh and Krishnan, arXiv 1911.09737)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from . import channels

#: Keeps the division defined where a channel is 0 everywhere (section 3.1).
EPSILON = 1e-6
#: The learned epsilon of a channel of one pixel, at first (section 3.2).
LEARNED_EPSILON = 1e-4


class FilterResponseNormalization(channels.ChannelLayer):
    """`gamma * x / sqrt(mean(x ** 2) + epsilon) + beta`, the mean over the pixels of a channel.

    The epsilon is 1e-6. Of a channel of one pixel the fraction would be the sign of x; there,
    `1e-6 + |e|` with a learned e takes its place.

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
        _, height, width, count = input_shape
        self.gamma = self.channel_weight("gamma", count, self.gamma_initializer)
        self.beta = self.channel_weight("beta", count, "zeros")
        self.learned = None
        if height == width == 1:
            initializer = keras.initializers.Constant(LEARNED_EPSILON)
            self.learned = self.channel_weight("epsilon", count, initializer)

    def compute(self, x: Any, training: bool) -> Any:
        """Normalizes each channel of each image."""
        epsilon = EPSILON if self.learned is None else EPSILON + ops.abs(self.learned)
        mean_square = ops.mean(ops.square(x), axis=(1, 2), keepdims=True)
        return x * ops.rsqrt(mean_square + epsilon) * self.gamma + self.beta


class ThresholdedLinearUnit(channels.ChannelLayer):
    """`max(x, tau)` with a learned threshold tau for each channel, 0 at first."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the weights."""
        self.tau = self.channel_weight("tau", input_shape[-1], "zeros")

    def compute(self, x: Any, training: bool) -> Any:
        """Takes the maximum."""
        return ops.maximum(x, self.tau)


class FilterResponse:
    """Filter Response Normalization, with a thresholded linear unit for each activation."""

    use_bias = False

    def __call__(
        self,
        x: keras.KerasTensor,
        *,
        name: str,
        activation: str | None,
        residual: keras.KerasTensor | None,
        gamma_initializer: str,
        **unused: Any,
    ) -> keras.KerasTensor:
        """Returns the normalized images; see `tensorflow_groupnorm.models`."""
        x = FilterResponseNormalization(gamma_initializer, name=name)(x)
        x = channels.add(x, residual, name)
        return x if activation is None else ThresholdedLinearUnit(name=f"{name}_tlu")(x)
