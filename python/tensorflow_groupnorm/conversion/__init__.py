"""Turns a Keras model with BatchNormalization into one with GroupNorm and weight standardization.

    convert -> _rebuild -> _rules, _fusion, _state -> _arguments, _graph -> Keras

- `_graph`: who reads what in a functional model; whether a normalization follows a layer.
- `_rules`: what becomes of a normalization, and of a convolution.
- `_fusion`: which additions and activations a normalization takes into its kernel.
- `_rebuild`: the new model, layer by layer, and its weights.
- `_state`: the layers inside a layer, and how weights go from one to another.
- `_arguments`: what layers and compiled models were made with.
- `_report`: what was done.
"""

from ._convert import convert
from ._report import ConversionReport, LayerChange

__all__ = ["ConversionReport", "LayerChange", "convert"]
