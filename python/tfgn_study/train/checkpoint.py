"""A training that goes on where it was interrupted, to the result of one that was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import tensorflow as tf
from tfgn_base.files import UNFINISHED, whole

_WEIGHTS = "state.weights.h5"
_HISTORY = "history.json"


class Checkpoint(keras.callbacks.Callback):
    """Keeps the weights, the state of the optimizer and the history after each epoch.

    Each epoch has a folder, which takes its number for a name once it is whole: a process may die
    at any moment. `keras.callbacks.BackupAndRestore` writes the weights and the number of the epoch
    one after the other, and trains an epoch twice if it dies in between.

    Args:
        folder: of this run alone; see `finish`.
        train_set: what `fit` iterates over.
    """

    def __init__(self, folder: Path, train_set: tf.data.Dataset):
        """See the class."""
        super().__init__()
        self.history: list[dict] = []
        self._folder = folder
        self._train_set = train_set

    def restore(self, model: keras.Model) -> int:
        """Restores the model, the history and the order of the images; to be called before `fit`.

        Each iteration over the images draws seeds, and how often `fit` iterates is Keras' affair:
        so a model of next to nothing is fitted for the epochs that were done.

        Returns:
            How many epochs were done: the `initial_epoch` of `fit`.
        """
        for path in self._folder.glob(f"{UNFINISHED}*"):  # Of a process that was killed.
            shutil.rmtree(path, ignore_errors=True)
        epochs = max((int(p.name) for p in self._folder.glob("*") if p.name.isdigit()), default=0)
        if not epochs:
            return 0
        self.history = json.loads((self._folder / str(epochs) / _HISTORY).read_text())
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self._folder / str(epochs) / _WEIGHTS)
        shape = self._train_set.element_spec[0].shape[1:]
        stand_in = keras.Sequential(
            [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(1)]
        )
        stand_in.compile("sgd", "mse")
        stand_in.fit(self._train_set, epochs=epochs, shuffle=False, verbose=0)
        return epochs

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the state, and drops that of the epoch before."""
        self.history.append({key: float(value) for key, value in logs.items()})
        self._folder.mkdir(parents=True, exist_ok=True)
        with whole(self._folder / str(epoch + 1)) as unfinished:
            unfinished.mkdir()
            self.model.save_weights(unfinished / _WEIGHTS)
            (unfinished / _HISTORY).write_text(json.dumps(self.history))
        shutil.rmtree(self._folder / str(epoch), ignore_errors=True)

    def finish(self):
        """Removes the files."""
        shutil.rmtree(self._folder, ignore_errors=True)
