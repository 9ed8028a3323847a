"""Batch-channel normalization (Qiao et al., arXiv 1903.10520, section 4)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from tensorflow_groupnorm.layers import GroupNormalization

from . import channels

#: How much of the moving statistics each batch replaces: that of the study's BatchNorm.
UPDATE_RATE = 0.1


class EstimatedBatchNormalization(channels.ScaleAndShift):
    """Batch normalization by moving statistics, in training too.

    A step first updates the statistics, the variance around the new mean:

        mean += rate * (batch_mean - mean)
        var += rate * (batch_mean_of((x - mean) ** 2) - var)
        y = gamma * (x - mean) / sqrt(var + epsilon) + beta

    They are constants for the gradient. The authors' code takes the variance around the mean before
    the update.

    Args:
        epsilon: epsilon.
        **options: keyword arguments of `channels.ScaleAndShift`.
    """

    def __init__(self, epsilon: float = 1e-5, **options: Any):
        """See the class."""
        super().__init__(**options)
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the weights."""
        super().build(input_shape)
        count = input_shape[-1]
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
        return super().compute((x - mean) * ops.rsqrt(variance + self.epsilon), training)


class BatchChannel(channels.Grouped):
    """Batch normalization by moving statistics, then group normalization.

    Both have gamma and beta for each channel; in the authors' code the second has them for each
    group.
    """

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
