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


class FilterResponseNormalization(channels.ScaleAndShift):
    """`gamma * x / sqrt(mean(x ** 2) + epsilon) + beta`, the mean over the pixels of a channel.

    The epsilon is 1e-6. Of a channel of one pixel the fraction would be the sign of x; there,
    `1e-6 + |e|` with a learned e takes its place.
    """

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the weights."""
        super().build(input_shape)
        _, height, width, count = input_shape
        self.learned = None
        if height == width == 1:
            initializer = keras.initializers.Constant(LEARNED_EPSILON)
            self.learned = self.channel_weight("epsilon", count, initializer)

    def compute(self, x: Any, training: bool) -> Any:
        """Normalizes each channel of each image."""
        epsilon = EPSILON if self.learned is None else EPSILON + ops.abs(self.learned)
        mean_square = ops.mean(ops.square(x), axis=(1, 2), keepdims=True)
        return super().compute(x * ops.rsqrt(mean_square + epsilon), training)


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
        x = FilterResponseNormalization(gamma_initializer=gamma_initializer, name=name)(x)
        x = channels.add(x, residual, name)
        return x if activation is None else ThresholdedLinearUnit(name=f"{name}_tlu")(x)
