"""Which images a network got wrong, as text in a result."""

from __future__ import annotations

import base64

import numpy as np


def encode(wrong: np.ndarray) -> str:
    """Returns the text for `[N]` bool: a bit per image, eight to a byte, in base64."""
    return base64.b64encode(np.packbits(wrong).tobytes()).decode()


def decode(text: str, images: int) -> np.ndarray:
    """Returns the `[images]` bool of which `encode` made the text."""
    packed = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.unpackbits(packed, count=images).astype(bool)
