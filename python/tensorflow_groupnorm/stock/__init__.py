"""GroupNorm and weight standardization in stock TensorFlow ops only.

These functions have the signatures of the fused `tensorflow_groupnorm.group_norm` and
`tensorflow_groupnorm.standardize_weights`. They run on any device, compile under XLA, convert to
TFLite and ONNX, and are differentiable to any order. The layers fall back to them if the op library
cannot be loaded. The second-order gradients of the fused ops come from the `*_grad` functions.

Reductions run over one axis at a time. To reduce several axes at once, TensorFlow would first
transpose the tensor and then add all elements of a group into a single float32.
"""

from ._group_norm import group_norm, group_norm_grad
from ._standardize_weights import standardize_weights, standardize_weights_grad

__all__ = [
    "group_norm",
    "group_norm_grad",
    "standardize_weights",
    "standardize_weights_grad",
]
