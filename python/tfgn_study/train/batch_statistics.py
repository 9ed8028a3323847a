"""The statistics of batch normalizations: measured over all training images, used or frozen."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .normalizations.batch_norm import FreezableBatchNormalization
from .validation import Validation

#: Images in a batch that is measured. What a layer reads depends on the batch statistics of the
#: layers before it: the larger the batch, the closer to the population (arXiv 2105.07576,
#: section 3.3). Those of a network that segments have more pixels.
MEASURED_BATCH = 256
SEGMENTED_BATCH = 32

#: The part of the epochs in which `FrozenStatistics` freezes: 20 of 100 (arXiv 2105.07576, section
#: 4.2).
FROZEN_PART = 1 / 5

#: Where `Validation` leaves its scores in the logs.
_LOGS = {"loss": "val_loss", "error": "val_error", "mistakes": "mistakes"}


class Population:
    """The statistics that the batch normalizations of a network have over all training images.

    Args:
        model: the network.
        images: uint8 `[N, side, side, channels]`.
    """

    def __init__(self, model: keras.Model, images: np.ndarray):
        """See the class."""
        self.layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
        size = MEASURED_BATCH if len(model.output.shape) == 2 else SEGMENTED_BATCH
        self._images = tf.data.Dataset.from_tensor_slices(images).batch(size)
        self._forward = tf.function(
            lambda batch: model(batch, training=True),
            input_signature=[self._images.element_spec],
        )

    def measure(self) -> None:
        """Assigns the mean and the variance of the population to each layer.

        The variance is that of the batches plus that of their means (the law of total variance).
        """
        momenta = [layer.momentum for layer in self.layers]
        sums = [np.zeros((2, *layer.moving_mean.shape)) for layer in self.layers]
        count = 0
        for layer in self.layers:
            layer.momentum = 0.0  # The moving statistics are those of the last batch.
        for batch in self._images:
            self._forward(batch)
            count += len(batch)
            for layer, total in zip(self.layers, sums, strict=True):
                mean = layer.moving_mean.numpy().astype(np.float64)
                total += len(batch) * np.stack([mean, layer.moving_variance.numpy() + mean**2])
        for layer, total, momentum in zip(self.layers, sums, momenta, strict=True):
            mean, mean_square = total / count
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(np.maximum(mean_square - mean**2, 0))
            layer.momentum = momentum


class PreciseStatistics(keras.callbacks.Callback):
    """Validates again after each epoch, with the statistics of the population.

    `val_loss`, `val_error` and `mistakes` of the epoch become those of this validation;
    `running_loss`, `running_error` and `running_mistakes` are those with the moving averages. The
    training does not change.

    Args:
        population: measures the statistics.
        validation: the callback, before this one, that validates with the moving averages.

    Attributes:
        seconds: the time that it took so far.
    """

    def __init__(self, population: Population, validation: Validation):
        """See the class."""
        super().__init__()
        self.seconds = 0.0
        self._population = population
        self._validation = validation

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures, validates, and puts the moving averages back."""
        start = time.perf_counter()
        layers = self._population.layers
        moving = [v for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
        before = [variable.numpy() for variable in moving]
        precise = self._validation.scores(prepare=self._population.measure)
        for variable, value in zip(moving, before, strict=True):
            variable.assign(value)
        if logs is not None:
            for name, key in _LOGS.items():
                logs[f"running_{name}"] = logs[key]
                logs[key] = precise[name]
        self.seconds += time.perf_counter() - start


class FrozenStatistics(keras.callbacks.Callback):
    """Trains with the statistics of the population, measured once, in the last epochs.

    Args:
        population: measures the statistics.
        epochs: number of epochs.
    """

    def __init__(self, population: Population, epochs: int):
        """See the class."""
        super().__init__()
        self._population = population
        self._first = epochs - math.ceil(epochs * FROZEN_PART)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Freezes; after an interruption in these epochs, the restored weights have the values."""
        layers = [x for x in self._population.layers if isinstance(x, FreezableBatchNormalization)]
        if epoch < self._first or all(layer.frozen for layer in layers):
            return
        if epoch == self._first:
            self._population.measure()
        for layer in layers:
            layer.frozen = True
        self.model.make_train_function(force=True)
