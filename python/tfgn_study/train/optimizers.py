"""The optimizer of a run: Keras' SGD, if asked for with adaptive gradient clipping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_groupnorm import adaptive_grad_clip

from ..config import RunConfig


class AdaptivelyClippedSGD(keras.optimizers.SGD):
    """SGD that clips gradients relative to their weights.

    Args:
        clipping: largest ratio of the norms; see `tfgn.adaptive_grad_clip`.
        head: the layer whose gradients are not clipped. Those of scalars are not, either: a gain
            that starts at 0 would hardly move.
        *args: positional arguments of `keras.optimizers.SGD`.
        **kwargs: keyword arguments of `keras.optimizers.SGD`.
    """

    def __init__(self, clipping: float, head: keras.layers.Layer, *args: Any, **kwargs: Any):
        """See the class."""
        super().__init__(*args, **kwargs)
        self._clipping = clipping
        self._exempt = {id(variable) for variable in head.trainable_variables}

    def apply(
        self,
        grads: Sequence[tf.Tensor],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Clips and applies the gradients."""
        variables = trainable_variables or self._trainable_variables
        clipped = adaptive_grad_clip(grads, variables, self._clipping)
        grads = [
            grad if id(variable) in self._exempt or len(variable.shape) == 0 else small
            for grad, small, variable in zip(grads, clipped, variables, strict=True)
        ]
        super().apply(grads, trainable_variables)


def build(
    config: RunConfig, steps_per_epoch: int, head: keras.layers.Layer
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a run.

    Args:
        config: the run.
        steps_per_epoch: training steps in an epoch.
        head: the last layer, whose gradients are not clipped adaptively.

    Returns:
        SGD with momentum 0.9 and a learning rate that decays to 0 along a cosine.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        config.peak_learning_rate, config.epochs * steps_per_epoch
    )
    options: dict[str, Any] = {"momentum": 0.9, "global_clipnorm": config.clip_norm}
    if config.ema is not None:
        options |= {"use_ema": True, "ema_momentum": config.ema}
    if config.accumulated_batches > 1:
        options["gradient_accumulation_steps"] = config.accumulated_batches
    if config.clipping_factor is None:
        return keras.optimizers.SGD(schedule, **options)
    return AdaptivelyClippedSGD(config.clipping_factor, head, schedule, **options)
