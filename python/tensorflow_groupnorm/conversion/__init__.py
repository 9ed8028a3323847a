"""Turns a Keras model with BatchNormalization into one with GroupNorm and weight standardization.

    convert -> _copy, _decide, _edit, _converted -> _rules, _fusion -> _network
        -> _composites -> _change, _walk

- `_walk`: the layers inside a layer, and the paths that lead to them.
- `_copy`: a model anew from its config, and its weights.
- `_decide`: a list of changes, a `_change` for each layer that another takes the place of.
    - `_rules`: what becomes of a normalization, and of a convolution.
    - `_fusion`: which additions and activations a normalization takes into its kernel.
    - `_network`: who reads what in functional models; whether a normalization follows a layer.
    - `_composites`: the same of layers with a `call` of their own, as far as that can be followed.
- `_edit`: carries the changes out, in the copy and in what is loaded.
- `_converted`: models and layers with code of their own, as they are saved and loaded.
- `_rebuilt`: the same of models whose constructors cannot make them again.
    - `_derived`: what the classes of both have in common.
- `_arguments`: what layers and compiled models were made with.
- `_report`: what was done.
"""

from ._convert import convert
from ._report import ConversionReport, LayerChange
from ._walk import described

__all__ = ["ConversionReport", "LayerChange", "convert", "described"]
