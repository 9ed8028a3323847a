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

    def restore(self):
        """Restores the history and the order of the images; to be called before `fit`.

        Each iteration over the images draws seeds, and how often `fit` iterates is Keras' affair:
        so a model of next to nothing is fitted for the epochs that were done.
        """
        try:
            epochs = json.loads(Path(self._training_metadata_path).read_text())["epoch"]
            self.history = json.loads(self._file.read_text())[:epochs]
        except (OSError, ValueError):  # Nothing was done, or the files are not whole.
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        shape = self._train_set.element_spec[0].shape[1:]
        model = keras.Sequential(
            [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse")
        model.fit(self._train_set, epochs=epochs, shuffle=False, verbose=0)

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
