"""A fresh process: loads a model, runs it and writes what it found.

    python -m third_party.load NAME FOLDER

It reads model.keras and batch.pickle in FOLDER and writes outputs.npz and loaded.json. Of the code
that made the model it imports what a user would: the packages.
"""

import importlib
import json
import pickle
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm  # noqa: F401

from . import oracle, walk
from .cases import all_cases


def main(name, folder):
    case = all_cases()[name]
    for module in case.modules:
        importlib.import_module(module)
    folder = Path(folder)
    model = keras.saving.load_model(
        folder / "model.keras", custom_objects=case.custom_objects(), safe_mode=case.safe_mode
    )
    batch = pickle.loads((folder / "batch.pickle").read_bytes())
    batch = keras.tree.map_structure(tf.constant, batch)
    np.savez(folder / "outputs.npz", *[np.asarray(t) for t in oracle.run(model, batch)])
    (folder / "loaded.json").write_text(json.dumps(walk.classes(model)))


if __name__ == "__main__":
    main(*sys.argv[1:])
