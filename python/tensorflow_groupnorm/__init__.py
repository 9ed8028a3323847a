"""Fused GroupNorm and weight standardization for TensorFlow and Keras.

    import tensorflow_groupnorm as tfgn

    y = tfgn.group_norm(x, gamma, beta, groups=32, activation="silu", residual=shortcut)
    kernel = tfgn.standardize_weights(kernel, gain, variant="nfnet")
    layer = tfgn.layers.GroupNormalization(groups=32, activation="relu")

- `group_norm`, `standardize_weights`: one fused op each, forward and backward.
- `layers`: Keras layers on these ops, registered for serialization.
- `models`: ResNets and Big Transfer models, with loaders for published weights.
- `convert`: converts a model with BatchNormalization to these layers.
- `fold`: returns a plain Keras model with the standardized kernels as constants.
- `export`: writes a model for serving, with or without the custom ops.
- `adaptive_grad_clip`: clips gradients relative to their weights.
- `stock`: both functions in stock TensorFlow ops, for exports and as a fallback if the op library
  cannot be loaded.
- `raw_ops`: the registered ops, called like those of `tf.raw_ops`.
- `plugin_path`: the path of the op library, for programs that load it themselves.
- `build_info`: what the compiled libraries were built from.
"""

from importlib.metadata import version

from . import layers, models, stock
from ._conversion import ConversionReport, LayerChange, convert
from ._export import Exported, ExportError, export
from ._folding import fold
from ._library import FusedOpsUnavailableWarning, build_info, plugin_path
from .clipping import adaptive_grad_clip
from .ops import group_norm, raw_ops, standardize_weights

__version__ = version("tensorflow-groupnorm")

__all__ = [
    "ConversionReport",
    "ExportError",
    "Exported",
    "FusedOpsUnavailableWarning",
    "LayerChange",
    "adaptive_grad_clip",
    "build_info",
    "convert",
    "export",
    "fold",
    "group_norm",
    "layers",
    "models",
    "plugin_path",
    "raw_ops",
    "standardize_weights",
    "stock",
]
