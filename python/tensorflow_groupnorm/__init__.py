"""Fused GroupNorm and weight standardization for TensorFlow and Keras.

    import tensorflow_groupnorm as tfgn

    y = tfgn.group_norm(x, gamma, beta, groups=32, activation="silu", residual=shortcut)
    kernel = tfgn.standardize_weights(kernel, gain, variant="nfnet")
    layer = tfgn.layers.GroupNormalization(groups=32, activation="relu")

- `group_norm`, `standardize_weights`: one fused op each, forward and backward.
- `layers`: Keras layers on these ops, registered for serialization.
- `stock`: the same two functions in stock TensorFlow ops, for export and where the op library
  could not be loaded.
- `raw_ops`: the ops as they are registered, as `tf.raw_ops`.
- `models`: ResNets and Big Transfer's, with their published weights.
- `adaptive_grad_clip`: clips gradients relative to their weights.
- `convert`: a model with BatchNormalization turned into one with these layers.
- `export`: writes a model for serving, with or without the custom ops.
- `plugin_path`: the op library, for programs that load it themselves.
- `build_info`: what the compiled part was built from.
"""

from importlib.metadata import version

from . import layers, models, stock
from ._conversion import ConversionReport, convert
from ._export import ExportError, export
from ._library import FusedOpsUnavailableWarning, build_info, plugin_path
from .clipping import adaptive_grad_clip
from .ops import group_norm, raw_ops, standardize_weights

__version__ = version("tensorflow-groupnorm")

__all__ = [
    "ConversionReport",
    "ExportError",
    "FusedOpsUnavailableWarning",
    "adaptive_grad_clip",
    "build_info",
    "convert",
    "export",
    "group_norm",
    "layers",
    "models",
    "plugin_path",
    "raw_ops",
    "standardize_weights",
    "stock",
]
