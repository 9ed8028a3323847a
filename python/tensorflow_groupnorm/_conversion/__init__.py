"""Turns a Keras model with BatchNormalization into one with GroupNorm and weight standardization.

    convert -> copy, decide, edit, converted -> rules, fusion -> network
        -> composites -> change, walk

- `walk`: the layers inside a layer, and the paths that lead to them.
- `copy`: a model anew from its config, and its weights.
- `decide`: a list of changes, a `change` for each layer that another takes the place of.
    - `rules`: what becomes of a normalization, and of a convolution.
    - `fusion`: which additions and activations a normalization takes into its kernel.
    - `network`: who reads what in functional models; whether a normalization follows a layer.
    - `composites`: the same of layers with a `call` of their own, as far as that can be followed.
- `edit`: carries the changes out, in the copy and in what is loaded.
- `converted`: models and layers with code of their own, as they are saved and loaded.
- `rebuilt`: the same of models whose constructors cannot make them again.
    - `derived`: what the classes of both have in common.
- `arguments`: what layers and compiled models were made with.
- `report`: what was done.
"""

from .convert import convert
from .report import ConversionReport, LayerChange
from .walk import described

__all__ = ["ConversionReport", "LayerChange", "convert", "described"]
