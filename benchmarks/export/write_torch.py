"""Writes the ONNX file of a network in PyTorch: `write_torch NETWORK BATCH FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import torch

from . import torch_networks
from .contenders import FROM_TORCH, NETWORKS

#: The first opset in which GroupNormalization has a scale per channel.
OPSET = 21


def main(network: str, batch: int, folder: Path):
    """Writes the file, and the number of its nodes."""
    names = list(NETWORKS[network].inputs)
    file = folder / FROM_TORCH
    torch.onnx.export(
        torch_networks.build(network),
        torch_networks.zeros(network, batch),
        file,
        input_names=names,
        output_names=["output_0"],
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
    )
    (folder / f"{FROM_TORCH}.nodes").write_text(str(len(onnx.load(file).graph.node)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
