"""Turns a Keras model with layers of this package into one with stock layers.

    fold -> plain -> plain_normalization

- `fold`: compares the folded model with the original.
- `plain`: makes the stock layers, and graphs of them, and copies the weights.
- `plain_normalization`: a normalization, an addition and an activation for each normalization.
"""

from .fold import fold

__all__ = ["fold"]
