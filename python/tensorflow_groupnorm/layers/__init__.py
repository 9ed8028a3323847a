"""Keras layers on the fused ops.

All layers are registered for serialization: models that use them load with
`keras.saving.load_model` after `import tensorflow_groupnorm`.
"""

from ._group_normalization import GroupNormalization
from ._recomputed_normalization import RecomputedNormalization
from ._standardized_layers import (
    StandardizedConv1D,
    StandardizedConv1DTranspose,
    StandardizedConv2D,
    StandardizedConv2DTranspose,
    StandardizedConv3D,
    StandardizedConv3DTranspose,
    StandardizedDense,
    StandardizedDepthwiseConv2D,
    StandardizedSeparableConv2D,
)
from ._weight_standardization import WeightStandardization

__all__ = [
    "GroupNormalization",
    "RecomputedNormalization",
    "StandardizedConv1D",
    "StandardizedConv1DTranspose",
    "StandardizedConv2D",
    "StandardizedConv2DTranspose",
    "StandardizedConv3D",
    "StandardizedConv3DTranspose",
    "StandardizedDense",
    "StandardizedDepthwiseConv2D",
    "StandardizedSeparableConv2D",
    "WeightStandardization",
]
