"""The tasks of a study, and the networks that it can train."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network of `tfgn.models`, or the U-Net.

    Attributes:
        widths: channel counts of its normalizations; those of the levels of a U-Net.
        blocks: residual blocks in each stage of a ResNet for small images (arXiv 1512.03385,
            section 4.2), whose stages have these widths; empty for a published network.
        function: name in `tfgn.models`.
        task: what it learns, a key of `TASKS`.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...] = ()
    function: str = "ResNet"
    task: str = "classification"

    @property
    def segments(self) -> bool:
        """Whether it has logits for every pixel."""
        return self.task == "segmentation"

    @property
    def least_image_size(self) -> int:
        """Side in pixels that leaves one pixel to the last stage or level."""
        if self.segments:
            return self.image_size_step
        # The resolution is halved once per stage after the first; the large stem halves it twice.
        return 2 ** (len(self.blocks) - 1) if self.blocks else 32

    @property
    def image_size_step(self) -> int:
        """The side in pixels must be a multiple of it: a U-Net joins what it halves and doubles."""
        return 2 ** (len(self.widths) - 1) if self.segments else 1

    @property
    def reads_bit(self) -> bool:
        """Whether the network can read a checkpoint of Big Transfer."""
        return self.function.startswith("BiT_")


#: The network that a study trains by default, by task.
TASKS = {"classification": "resnet8", "segmentation": "unet"}

_WIDE = (64, 128, 256, 512)

MODELS = {
    "resnet8": Architecture((16, 32, 64), blocks=(1, 1, 1)),
    "resnet14": Architecture((16, 32, 64), blocks=(2, 2, 2)),
    "resnet20": Architecture((16, 32, 64), blocks=(3, 3, 3)),
    "resnet8x4": Architecture((64, 128, 256), blocks=(1, 1, 1)),
    "resnet20x4": Architecture((64, 128, 256), blocks=(3, 3, 3)),
    "unet": Architecture((16, 32, 64), task="segmentation"),
    "resnet18": Architecture(_WIDE, function="ResNet18"),
    "resnet34": Architecture(_WIDE, function="ResNet34"),
    "resnet50": Architecture((*_WIDE, 1024, 2048), function="ResNet50"),
    "bit-r50x1": Architecture((*_WIDE, 1024, 2048), function="BiT_R50x1"),
    "bit-r50x3": Architecture((192, 384, 768, 1536, 3072, 6144), function="BiT_R50x3"),
    "bit-r101x1": Architecture((*_WIDE, 1024, 2048), function="BiT_R101x1"),
}
