"""EvoNorm-S0 (Liu et al., arXiv 2004.02967): a normalization and its activation in one."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from . import channels

EPSILON = 1e-5


class EvoNormS0(channels.ScaleAndShift):
    """`gamma * x * sigmoid(v * x) / sqrt(var + epsilon) + beta`, the variance of each group.

    Args:
        groups: number of groups, or `None`.
        group_size: channels per group, instead of `groups`.
        **options: keyword arguments of `channels.ScaleAndShift`.
    """

    def __init__(self, groups: int | None = None, group_size: int | None = None, **options: Any):
        """See the class."""
        super().__init__(**options)
        self.groups, self.group_size = groups, group_size

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the weights."""
        super().build(input_shape)
        self.v = self.channel_weight("v", input_shape[-1], "ones")

    def compute(self, x: Any, training: bool) -> Any:
        """Normalizes and activates the images."""
        _, height, width, count = x.shape
        groups = self.groups or count // self.group_size
        grouped = ops.reshape(x, (-1, height, width, groups, count // groups))
        rstd = ops.rsqrt(ops.var(grouped, axis=(1, 2, 4), keepdims=True) + EPSILON)
        rstd = ops.repeat(ops.reshape(rstd, (-1, 1, 1, groups)), count // groups, axis=3)
        return super().compute(x * ops.sigmoid(self.v * x) * rstd, training)


class EvoNorm(channels.Grouped):
    """EvoNorm-S0 in the place of each normalization with an activation.

    As in the authors' ResNet (v1), a normalization without an activation, or before an addition,
    becomes a scale and a shift, and the ReLU after an addition remains.
    """

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
        options = {"gamma_initializer": gamma_initializer, "name": name}
        if activation is not None and residual is None:
            return EvoNormS0(self._groups, self._group_size, **options)(x)
        x = channels.add(channels.ScaleAndShift(**options)(x), residual, name)
        return channels.relu(x, activation, name)
