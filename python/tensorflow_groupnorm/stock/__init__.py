"""GroupNorm and weight standardization in stock TensorFlow ops only.

The same functions, with the same signatures, as the fused `tensorflow_groupnorm.group_norm`
and `tensorflow_groupnorm.standardize_weights`. They run on any device, compile under XLA,
convert to TFLite and ONNX, and are differentiable to any order. The layers use them where no
fused library is loaded; the fused ops' second-order gradients are built from the `*_grad`
functions of this package.

Reductions go axis by axis. One pass over several axes would make TensorFlow transpose the
tensor first and would add all elements of a group into a single float32.
"""

from ._group_norm import group_norm, group_norm_grad
from ._standardize_weights import standardize_weights, standardize_weights_grad

__all__ = [
    "group_norm",
    "group_norm_grad",
    "standardize_weights",
    "standardize_weights_grad",
]
