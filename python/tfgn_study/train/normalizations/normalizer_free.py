"""Networks without normalizations (Brock et al., arXiv 2101.08692 and 2102.06171)."""

from __future__ import annotations

import math
from typing import Any

import keras

from . import channels

#: Makes the variance of `relu(x)` that of a standard Gaussian x (arXiv 2101.08692, section 2); the
#: authors' code has 1.71396.
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
#: Factor of the residual branches (arXiv 2102.06171, section 2, and the authors' code).
RESIDUAL_FACTOR = 0.2


class ScaledReLU(keras.layers.Layer):
    """`relu(x) * sqrt(2 / (1 - 1 / pi))`."""

    def call(self, inputs: Any) -> Any:
        """Rectifies and scales."""
        return keras.ops.relu(inputs) * RELU_GAIN


class SkipInit(keras.layers.Layer):
    """`0.2 * gain * x` with one learned gain, 0 at first: the block is the identity (SkipInit)."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the weight."""
        self.gain = self.add_weight(name="gain", shape=(), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Scales the branch."""
        return inputs * (RESIDUAL_FACTOR * self.gain)


class NormalizerFree:
    """What NFNets have in the place of normalizations, besides scaled weight standardization.

    The ReLUs in the branches are scaled. The ReLU after an addition is not: unlike those of the
    pre-activation networks of the papers, it is on the path of the identity.
    """

    use_bias = True

    def __call__(
        self,
        x: keras.KerasTensor,
        *,
        name: str,
        activation: str | None,
        residual: keras.KerasTensor | None,
        **unused: Any,
    ) -> keras.KerasTensor:
        """Returns the activated images; see `tensorflow_groupnorm.models`."""
        if residual is not None:
            x = channels.add(SkipInit(name=name)(x), residual, name)
            return channels.relu(x, activation, name)
        return x if activation is None else ScaledReLU(name=name)(x)
