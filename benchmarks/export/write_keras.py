"""Writes the files of a network in Keras: `write_keras NETWORK BATCH FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow_groupnorm._export import onnx, saved_model
from tensorflow_groupnorm._export.errors import ExportError
from tensorflow_groupnorm._export.model import named_signature
from tfgn_base import names

from . import keras_networks
from .contenders import KERAS_FILES, NETWORKS, PRIMITIVE


def main(network: str, batch: int, folder: Path):
    """Writes each file, or why it cannot be written."""
    import onnx as onnx_format

    model = keras_networks.build(network)
    specs = [
        tf.TensorSpec([batch, *shape], name=name)
        for name, shape in NETWORKS[network].inputs.items()
    ]
    signature = [specs if len(specs) > 1 else specs[0]]
    for name in KERAS_FILES:
        try:
            if name == PRIMITIVE:
                _write_primitive(model, signature, folder / name)
            else:
                tfgn.export(model, folder / name, target=name, input_signature=signature)
        except (ExportError, ImportError) as error:
            (folder / f"{name}.error").write_text(str(error))
            continue
        if names.TARGETS.get(name, "onnx") == "onnx":
            graph = onnx_format.load(folder / name).graph
            (folder / f"{name}.nodes").write_text(str(len(graph.node)))


def _write_primitive(model, signature, path: Path):
    """Writes an ONNX file of the portable form: group normalizations in primitive operators."""
    stock = frozenset({"GroupNorm", "StandardizeWeights"})
    with TemporaryDirectory() as folder:
        saved = Path(folder, "saved")
        saved_model.write(model, named_signature(model, signature), saved, stock=stock)
        onnx.convert(saved, path, "InstanceNormalization", opset=18)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
