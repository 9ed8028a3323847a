"""The layout of the inputs: channels last, but channels first for files of PyTorch's exporter."""

from __future__ import annotations

import numpy as np

from .contenders import CONTENDERS, FROM_TORCH


def both(arrays: dict) -> dict:
    """Returns inputs, which are channels last, in both layouts by `is_first`."""
    first = {name: np.ascontiguousarray(np.moveaxis(x, -1, 1)) for name, x in arrays.items()}
    return {False: arrays, True: first}


def is_first(contender: str) -> bool:
    """Returns whether a contender takes channels first."""
    return CONTENDERS[contender].file == FROM_TORCH
