"""The optimizer of a run: Keras' SGD, with adaptive gradient clipping where it is asked for."""

from __future__ import annotations

import keras
from tensorflow_groupnorm import adaptive_grad_clip

from ..config import RunConfig


class AdaptivelyClippedSGD(keras.optimizers.SGD):
    """SGD whose gradients are clipped relative to their weights.

    Args:
        clipping: see `adaptive_grad_clip`.
        head: the layer whose gradients are left as they are.
        *args: of `keras.optimizers.SGD`.
        **kwargs: of `keras.optimizers.SGD`.
    """

    def __init__(self, clipping: float, head: keras.layers.Layer, *args, **kwargs):
        """See the class."""
        super().__init__(*args, **kwargs)
        self._clipping = clipping
        self._exempt = {id(variable) for variable in head.trainable_variables}

    def apply(self, grads, trainable_variables=None):
        """Clips and applies the gradients."""
        variables = trainable_variables or self._trainable_variables
        clipped = adaptive_grad_clip(grads, variables, self._clipping)
        grads = [
            grad if id(variable) in self._exempt else small
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
        head: the last layer, which adaptive gradient clipping leaves alone.

    Returns:
        SGD with momentum 0.9 and a learning rate that follows a cosine to 0.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        config.peak_learning_rate, config.epochs * steps_per_epoch
    )
    options = {"momentum": 0.9, "global_clipnorm": config.clip_norm}
    if config.ema is not None:
        options |= {"use_ema": True, "ema_momentum": config.ema}
    if config.agc is None:
        return keras.optimizers.SGD(schedule, **options)
    return AdaptivelyClippedSGD(config.agc, head, schedule, **options)
