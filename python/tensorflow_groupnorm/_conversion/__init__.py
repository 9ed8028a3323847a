"""Turns a Keras model with BatchNormalization into one with GroupNorm and weight standardization.

    convert -> copy, decide, pairs, edit, converted -> rules, fusion, readers -> network
        -> composites -> change, walk

- `walk`: the layers inside a layer, and the paths to them.
- `copy`: copies a model by its config, then its weights.
- `decide`: lists the changes, one `change` for each layer to replace.
    - `rules`: how a normalization and a convolution are replaced, and when they are kept.
    - `fusion`: the additions and activations that a normalization absorbs.
    - `network`: which call reads which tensor, and whether a normalization follows a layer.
    - `composites`: the graphs of layers with a `call` of their own, if they can be traced.
- `pairs`: lists the normalizations that are put into one layer with what reads their outputs.
    - `readers`: what the backward pass keeps of a tensor for the calls that read it.
- `edit`: applies the changes and the pairs, to the copy and to a model that is being loaded.
- `converted`: saves and loads converted models and layers of custom classes.
- `rebuilt`: the same for models whose constructors cannot make them again.
    - `derived`: what the classes of both have in common.
- `arguments`: the arguments of layers and of `compile`.
- `report`: the report of a conversion.
"""

from .convert import convert, pair_between
from .report import ConversionReport, LayerChange
from .walk import described

__all__ = ["ConversionReport", "LayerChange", "convert", "described", "pair_between"]
