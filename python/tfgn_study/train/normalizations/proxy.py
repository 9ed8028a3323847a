"""Proxy Normalization after group normalization (Labatie et al., arXiv 2106.03743)."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops
from tensorflow_groupnorm.layers import GroupNormalization

from . import channels

#: Of the variance of the proxy, as in the authors' code. That samples the proxy at 200 quantiles;
#: here its moments are exact.
EPSILON = 0.03


class ProxyNormalizedActivation(keras.layers.Layer):
    """Group normalization and a ReLU whose output is normalized by that of a proxy variable.

        y = (relu(gamma * n + beta) - mean) / sqrt(var + 0.03)

    n is x normalized in groups; mean and var are those of `relu(gamma * z + beta)`, where z is
    Gaussian with the mean `proxy_shift` and the standard deviation `1 + proxy_scale`. Both are
    learned for each channel, and 0 at first. The moments do not depend on the images.

    Args:
        groups: number of groups, or `None`.
        group_size: channels per group, instead of `groups`.
        epsilon: epsilon of the group normalization.
        gamma_initializer: initializer of gamma.
        **options: keyword arguments of a layer.
    """

    def __init__(
        self,
        groups: int | None = None,
        group_size: int | None = None,
        epsilon: float = 1e-5,
        gamma_initializer: Any = "ones",
        **options: Any,
    ):
        """See the class."""
        super().__init__(**options)
        self.norm = GroupNormalization(
            groups,
            group_size=group_size,
            activation="relu",
            epsilon=epsilon,
            gamma_initializer=gamma_initializer,
            dtype=self.dtype_policy,
            name="norm",
        )

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the weights."""
        self.norm.build(input_shape)
        self.proxy_shift, self.proxy_scale = (
            self.add_weight(
                name=name, shape=(input_shape[-1],), initializer="zeros", autocast=False
            )
            for name in ("proxy_shift", "proxy_scale")
        )

    def call(self, inputs: Any) -> Any:
        """Normalizes, rectifies and normalizes again."""
        y = ops.cast(self.norm(inputs), "float32")
        gamma, beta = self.norm.gamma, self.norm.beta
        mean, variance = rectified_moments(
            gamma * self.proxy_shift + beta, ops.abs(gamma * (1 + self.proxy_scale))
        )
        return ops.cast((y - mean) * ops.rsqrt(variance + EPSILON), self.compute_dtype)


def rectified_moments(mean: Any, std: Any) -> tuple[Any, Any]:
    """Returns the mean and the variance of `relu(z)` for a Gaussian z.

    With `t = mean / std`, the density phi and the distribution function Phi of the normal
    distribution, `E = mean * Phi(t) + std * phi(t)` and
    `E2 = (mean ** 2 + std ** 2) * Phi(t) + mean * std * phi(t)`.

    Args:
        mean: the mean of z.
        std: the standard deviation of z, at least 0.
    """
    t = mean / ops.maximum(std, 1e-6)
    density = ops.exp(-0.5 * ops.square(t)) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + ops.erf(t / math.sqrt(2)))
    first = mean * below + std * density
    second = (ops.square(mean) + ops.square(std)) * below + mean * std * density
    return first, ops.maximum(second - ops.square(first), 0.0)


class ProxyNormalization(channels.Grouped):
    """Group normalization, and Proxy Normalization of each activation that follows one at once.

    The ReLU after an addition is not that of a normalized variable, and remains.
    """

    def __call__(
        self,
        x: keras.KerasTensor,
        *,
        activation: str | None,
        residual: keras.KerasTensor | None,
        axis: int,
        **options: Any,
    ) -> keras.KerasTensor:
        """Returns the normalized images; see `tensorflow_groupnorm.models`."""
        if activation is not None and residual is None:
            return ProxyNormalizedActivation(self._groups, self._group_size, **options)(x)
        options |= {"axis": axis, "group_size": self._group_size, "activation": activation}
        return GroupNormalization(self._groups, **options)(x, residual=residual)
