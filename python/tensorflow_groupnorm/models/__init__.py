"""ResNets with GroupNorm and weight standardization, in the manner of `keras.applications`.

- `ResNet18`, `ResNet34`, `ResNet50`, `ResNet101`: the ResNets of He et al.; `ResNet`: one with any
  number of stages, blocks and channels.
- `BiT_R50x1`, `BiT_R50x3`, `BiT_R101x1`, `BiT_R101x3`, `BiT_R152x2`, `BiT_R152x4`: the
  ResNets (v2) of Big Transfer; `load_bit_npz` reads their published checkpoints.
"""

from ._bit import BiT_R50x1, BiT_R50x3, BiT_R101x1, BiT_R101x3, BiT_R152x2, BiT_R152x4
from ._bit_npz import load_bit_npz
from ._resnet import ResNet, ResNet18, ResNet34, ResNet50, ResNet101

__all__ = [
    "BiT_R101x1",
    "BiT_R101x3",
    "BiT_R152x2",
    "BiT_R152x4",
    "BiT_R50x1",
    "BiT_R50x3",
    "ResNet",
    "ResNet101",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "load_bit_npz",
]
