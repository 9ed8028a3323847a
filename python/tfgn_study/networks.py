"""The networks that a study can train."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes of a ResNet.

    Attributes:
        widths: channels that its normalizations see.
        blocks: residual blocks of two 3x3 convolutions per stage of a ResNet for small images
            (arXiv 1512.03385, section 4.2), whose every stage after the first halves the
            resolution; 0 for a function of `tfgn.models`.
        function: name in `tfgn.models`, or `None`.
    """

    widths: tuple[int, ...]
    blocks: int = 0
    function: str | None = None

    @property
    def least_image_size(self) -> int:
        """Side in pixels that leaves one pixel to the last stage."""
        # Three stages halve the resolution twice; those of `tfgn.models` five times.
        return 4 if self.function is None else 32

    @property
    def reads_bit(self) -> bool:
        """Whether the checkpoints of Big Transfer are for this network."""
        return self.function is not None and self.function.startswith("BiT_")


_WIDE = (64, 128, 256, 512)

MODELS = {
    "resnet8": Architecture((16, 32, 64), blocks=1),
    "resnet14": Architecture((16, 32, 64), blocks=2),
    "resnet20": Architecture((16, 32, 64), blocks=3),
    "resnet8x4": Architecture((64, 128, 256), blocks=1),
    "resnet20x4": Architecture((64, 128, 256), blocks=3),
    "resnet18": Architecture(_WIDE, function="ResNet18"),
    "resnet34": Architecture(_WIDE, function="ResNet34"),
    "resnet50": Architecture((*_WIDE, 1024, 2048), function="ResNet50"),
    "bit-r50x1": Architecture((*_WIDE, 1024, 2048), function="BiT_R50x1"),
    "bit-r50x3": Architecture((192, 384, 768, 1536, 3072, 6144), function="BiT_R50x3"),
    "bit-r101x1": Architecture((*_WIDE, 1024, 2048), function="BiT_R101x1"),
}
