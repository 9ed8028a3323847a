"""The validation of a run after each epoch: its loss, its error, the mistakes on each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .. import mistakes

#: Images in a batch, and those with a mask, which take more memory.
BATCH = 256
SEGMENTED_BATCH = 16


class Validation(keras.callbacks.Callback):
    """Validates after each epoch, in one pass over the images.

    Adds `val_loss`, `val_error` and `mistakes` (their text, see `mistakes.Mistakes`) to the logs.
    With `validation_data`, `fit` would not say which images are wrong.

    Args:
        images: uint8 `[N, side, side, channels]`.
        labels: classes, int64 `[N]`, or masks, uint8 `[N, side, side]`.
        ema: whether the moving average of the weights is validated in their place.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, ema: bool):
        """See the class."""
        super().__init__()
        self._mistakes = mistakes.of_labels(labels)
        size = BATCH if labels.ndim == 1 else SEGMENTED_BATCH
        self._batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(size)
        self._swap = keras.callbacks.SwapEMAWeights() if ema else None

    def set_model(self, model: keras.Model) -> None:
        """Takes the network."""
        super().set_model(model)
        # Of any batch size: the last batch may be smaller.
        self._forward = tf.function(
            lambda images: model(images, training=False),
            input_signature=[self._batches.element_spec[0]],
        )
        if self._swap is not None:
            self._swap.set_model(model)

    def scores(self, prepare: Callable[[], None] | None = None) -> dict[str, Any]:
        """Returns `loss`, `error` and `mistakes` of the network.

        Args:
            prepare: called with the weights in place that are validated.
        """
        if self._swap is not None:
            self._swap.on_test_begin()
        if prepare is not None:
            prepare()
        losses, parts = [], []
        for images, labels in self._batches:
            logits = self._forward(images)
            losses.append(float(self.model.loss(labels, logits)) * len(images))
            parts.append(self._mistakes.of(labels.numpy(), logits.numpy()))
        if self._swap is not None:
            self._swap.on_test_end()
        found = np.concatenate(parts)
        columns = found.reshape(len(found), -1)
        return {
            "loss": sum(losses) / len(found),
            "error": float(self._mistakes.error(columns.sum(0), len(found))),
            "mistakes": self._mistakes.encode(found),
        }

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the scores to the logs."""
        if logs is not None:
            scores = self.scores()
            logs["mistakes"] = scores.pop("mistakes")
            logs.update({f"val_{name}": value for name, value in scores.items()})
