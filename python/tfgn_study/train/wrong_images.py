"""Which validation images a network gets wrong in its final epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .. import mistakes
from ..options import FINAL_EPOCHS


class WrongImages(keras.callbacks.Callback):
    """Adds `wrong` to the logs of an epoch: which images the validation got wrong.

    Place it before callbacks that put other weights in place for a validation: it predicts at the
    end of a validation, before they put the weights back.

    Args:
        validation: the data set for validation.
        labels: int64 `[N]`, the labels of its images.
        epochs: number of epochs.

    Attributes:
        text: the images that the last validation got wrong, as `mistakes.encode` writes them; empty
            before the final epochs.
    """

    def __init__(self, validation: tf.data.Dataset, labels: np.ndarray, epochs: int):
        """See the class."""
        super().__init__()
        self.text = ""
        self._validation = validation
        self._labels = labels
        self._first = epochs - FINAL_EPOCHS
        self._final = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Notes whether this is a final epoch."""
        self._final = epoch >= self._first

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Predicts with the weights and the statistics of the validation."""
        if self._final:
            logits = self.model.predict(self._validation, verbose=0)
            self.text = mistakes.encode(logits.argmax(-1) != self._labels)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the text to the logs."""
        if logs is not None:
            logs["wrong"] = self.text
