"""What a network learns and by which score its training is followed."""

from __future__ import annotations

import keras

from ..config import RunConfig
from ..networks import MODELS
from ..options import IGNORED


def loss(config: RunConfig) -> keras.losses.Loss:
    """Returns the mean cross entropy over the images, or over the pixels with a class."""
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=IGNORED if MODELS[config.model].segments else None
    )


def score(config: RunConfig, classes: int) -> keras.metrics.Metric:
    """Returns the metric "score", 1 minus the error: accuracy, or mean intersection over union."""
    if MODELS[config.model].segments:
        return keras.metrics.MeanIoU(
            classes, ignore_class=IGNORED, sparse_y_pred=False, name="score"
        )
    return keras.metrics.SparseCategoricalAccuracy(name="score")
