"""Batch-channel normalization (Qiao et al., arXiv 1903.10520, section 4)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from tensorflow_groupnorm.layers import GroupNormalization

from . import channels

#: How much of the moving statistics each batch replaces: that of the study's BatchNorm.
UPDATE_RATE = 0.1


class EstimatedBatchNormalization(channels.ChannelLayer):
    """Batch normalization by moving statistics, in training too.

    A step first updates the statistics, the variance around the new mean:

        mean += rate * (batch_mean - mean)
        var += rate * (batch_mean_of((x - mean) ** 2) - var)
        y = gamma * (x - mean) / sqrt(var + epsilon) + beta

    They are constants for the gradient.

    Args:
        epsilon: epsilon.
        gamma_initializer: initializer of gamma.
        **options: keyword arguments of a layer.
    """

    def __init__(self, epsilon: float = 1e-5, gamma_initializer: Any = "ones", **options: Any):
        """See the class."""
        super().__init__(**options)
        self.epsilon = epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the weights."""
        count = input_shape[-1]
        self.gamma = self.channel_weight("gamma", count, self.gamma_initializer)
        self.beta = self.channel_weight("beta", count, "zeros")
        self.moving_mean = self.channel_weight("moving_mean", count, "zeros", trainable=False)
        self.moving_variance = self.channel_weight(
            "moving_variance", count, "ones", trainable=False
        )

    def compute(self, x: Any, training: bool) -> Any:
        """Updates the statistics in training, and normalizes by them."""
        mean = ops.convert_to_tensor(self.moving_mean)
        variance = ops.convert_to_tensor(self.moving_variance)
        if training:
            images = ops.stop_gradient(x)
            mean += UPDATE_RATE * (ops.mean(images, axis=(0, 1, 2)) - mean)
            around = ops.mean(ops.square(images - mean), axis=(0, 1, 2))
            variance += UPDATE_RATE * (around - variance)
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return (x - mean) * ops.rsqrt(variance + self.epsilon) * self.gamma + self.beta


class BatchChannel:
    """Batch normalization by moving statistics, then group normalization.

    Args:
        groups: number of groups, or `None`.
        group_size: channels per group, instead of `groups`.
    """

    use_bias = False

    def __init__(self, groups: int | None, group_size: int | None):
        """See the class."""
        self._groups, self._group_size = groups, group_size

    def __call__(
        self,
        x: keras.KerasTensor,
        *,
        name: str,
        activation: str | None,
        residual: keras.KerasTensor | None,
        epsilon: float,
        **options: Any,
    ) -> keras.KerasTensor:
        """Returns the normalized images; see `tensorflow_groupnorm.models`."""
        x = EstimatedBatchNormalization(epsilon, name=f"{name}_batch")(x)
        layer = GroupNormalization(
            self._groups,
            group_size=self._group_size,
            activation=activation,
            epsilon=epsilon,
            name=name,
            **options,
        )
        return layer(x, residual=residual)
