"""A training that goes on where it was interrupted, to the result of one that was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from .files import atomic


class Checkpoint(keras.callbacks.BackupAndRestore):
    """Keras' backup, with the history and the order of the images.

    Args:
        folder: of this run alone; see `finish`.
        train_set: what `fit` iterates over.
    """

    def __init__(self, folder: Path, train_set: tf.data.Dataset):
        """See the class."""
        # Two states: one is whole even if the process dies while it writes the other.
        super().__init__(str(folder), double_checkpoint=True, delete_checkpoint=False)
        self.history: list[dict] = []
        self._folder = folder
        self._train_set = train_set

    @property
    def _file(self) -> Path:
        return self._folder / "history.json"

    def on_train_begin(self, logs=None):
        """Restores the weights, the optimizer, the history and the order of the images."""
        super().on_train_begin(logs)
        epochs = self.model._initial_epoch or 0
        if epochs:
            self.history = json.loads(self._file.read_text())[:epochs]
        for _ in range(epochs):
            # Each iteration draws the seeds of its epoch.
            next(iter(self._train_set))

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the history before the weights, so that it never lacks an epoch."""
        self.history.append({key: float(value) for key, value in logs.items()})
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic(self._file) as file:
            file.write(json.dumps(self.history).encode())
        super().on_epoch_end(epoch, logs)

    def finish(self):
        """Removes the files."""
        shutil.rmtree(self._folder, ignore_errors=True)
