"""The validation of a run after each epoch: its loss, its error, the images that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .. import mistakes

BATCH = 256


class Validation(keras.callbacks.Callback):
    """Validates after each epoch, in one pass over the images.

    Adds `val_loss`, `val_error` and `wrong` (the images that are wrong, as `mistakes.encode`
    writes them) to the logs. With `validation_data`, `fit` would not say which images are wrong.

    Args:
        images: uint8 `[N, side, side, channels]`.
        labels: int64 `[N]`.
        ema: whether the moving average of the weights is validated in their place.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, ema: bool):
        """See the class."""
        super().__init__()
        self._batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)
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
        """Returns `loss`, `error` and `wrong` of the network.

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
            loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            losses.append(loss.numpy())
            parts.append(logits.numpy().argmax(-1) != labels.numpy())
        if self._swap is not None:
            self._swap.on_test_end()
        wrong = np.concatenate(parts)
        return {
            "loss": float(np.concatenate(losses).mean(dtype=np.float64)),
            "error": float(wrong.mean()),
            "wrong": mistakes.encode(wrong),
        }

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the scores to the logs."""
        if logs is not None:
            scores = self.scores()
            logs["wrong"] = scores.pop("wrong")
            logs.update({f"val_{name}": value for name, value in scores.items()})
