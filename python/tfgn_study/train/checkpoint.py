"""The state of a training after each epoch: resumed, it ends as if it were not interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tfgn_base.files import UNFINISHED, whole

_WEIGHTS = "state.weights.h5"
_HISTORY = "history.json"


class Checkpoint(keras.callbacks.Callback):
    """Saves the weights, the state of the optimizer and the history after each epoch.

    The folder of an epoch is named after its number only once it is complete, as the process may
    die at any moment. `keras.callbacks.BackupAndRestore` writes the weights and the number of the
    epoch separately and trains an epoch twice if the process dies in between.

    Args:
        folder: folder of this run alone; `finish` removes it.
        train_set: the data set that `fit` iterates over.
    """

    def __init__(self, folder: Path, train_set: tf.data.Dataset):
        """See the class."""
        super().__init__()
        self.history: list[dict[str, Any]] = []
        self._folder = folder
        self._train_set = train_set

    def restore(self, model: keras.Model) -> int:
        """Restores the model, the history and the order of the images. Call it before `fit`.

        Each iteration over the data set draws seeds, and Keras does not promise how often `fit`
        iterates over it. A minimal model is therefore fitted for the number of finished epochs.

        Returns:
            The number of finished epochs: the `initial_epoch` of `fit`.
        """
        for path in self._folder.glob(f"{UNFINISHED}*"):  # Left by a killed process.
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

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves the state and removes that of the previous epoch."""
        self.history.append(
            {key: x if isinstance(x, str) else float(x) for key, x in (logs or {}).items()}
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        with whole(self._folder / str(epoch + 1)) as unfinished:
            unfinished.mkdir()
            self.model.save_weights(unfinished / _WEIGHTS)
            (unfinished / _HISTORY).write_text(json.dumps(self.history))
        shutil.rmtree(self._folder / str(epoch), ignore_errors=True)

    def finish(self) -> None:
        """Removes the saved state."""
        shutil.rmtree(self._folder, ignore_errors=True)
