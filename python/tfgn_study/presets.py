"""The experiments of the papers, as options of a study with the published numbers."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Published:
    """Published numbers, to be compared with the measured ones.

    Attributes:
        what: the experiment that gave the numbers.
        source: the publication.
        errors: top-1 error in percent, or a range of it, by norm and batch size.
        same_batch: whether the report compares them with the errors measured at their own batch
            size only, or with those at every batch size.
    """

    what: str
    source: str
    errors: dict[tuple[str, int | None], str]
    same_batch: bool = True


@dataclasses.dataclass(frozen=True)
class Preset:
    """An experiment.

    Attributes:
        title: what is compared.
        options: fields of `Options`; those that the user gives take precedence.
        note: what the experiment needs, for `tfgn study --help`.
        fine_tuning: fields that take precedence over these for a checkpoint of Big Transfer.
        published: the published numbers.
    """

    title: str
    options: dict[str, Any]
    note: str = ""
    fine_tuning: dict[str, Any] = dataclasses.field(default_factory=dict)
    published: tuple[Published, ...] = ()


_GN_PAPER = "Wu and He, Group Normalization, arXiv 1803.08494"
_IMAGENET = "ImageNet, ResNet-50, 8 GPUs, images per GPU"

#: 0.1 for 256 images, as in the GroupNorm paper. The default of 0.1 for 32 images, with which
#: ResNet-8 learns the digits fastest, makes wider networks stop learning in their first epoch.
_IMAGENET_RATE = 0.1 * 32 / 256

_GROUPS = {64: "24.6", 32: "24.1", 16: "24.6", 8: "24.4", 4: "24.6", 2: "24.7", 1: "25.3"}
_SIZES = {64: "24.4", 32: "24.5", 16: "24.2", 8: "24.3", 4: "24.8", 2: "25.6", 1: "28.4"}

_BN = {32: "23.6", 16: "23.7", 8: "24.8", 4: "27.3", 2: "34.7"}
_GN = {32: "24.1", 16: "24.2", 8: "24.0", 4: "24.2", 2: "24.1"}
_TABLE_2: dict[tuple[str, int | None], str] = {
    **{("bn", batch_size): error for batch_size, error in _BN.items()},
    **{("gn", batch_size): error for batch_size, error in _GN.items()},
}
_TABLE_3: dict[tuple[str, int | None], str] = {
    **{(f"gn:groups={groups}", 32): error for groups, error in _GROUPS.items()},
    **{(f"gn:size={size}", 32): error for size, error in _SIZES.items()},
}

_PETS = Published(
    "Oxford-IIIT Pets, ResNet from random weights, 25 epochs; the batch size is not known",
    "a replication in a blog post on Group Normalization",
    {("bn", None): "67", ("gn", None): "86", ("gn+ws", None): "62-67"},
    same_batch=False,
)
_BIT = Published(
    "ImageNet, ResNet-50 (v2), batch 4096",
    "Kolesnikov et al., Big Transfer, arXiv 1912.11370",
    {("bn", 4096): "24.4", ("gn", 4096): "29.8", ("gn+ws", 4096): "24.0"},
    same_batch=False,
)

PRESETS = {
    "gn-fig1": Preset(
        title="BN against GN over batch sizes, as in figure 1 of the GroupNorm paper",
        options={"norms": ("bn", "gn"), "batch_sizes": (2, 4, 8, 16, 32)},
        published=(Published(_IMAGENET, f"{_GN_PAPER}, table 2", _TABLE_2),),
    ),
    "gn-groups": Preset(
        title="the number of groups, and of channels per group: from LN over GN to IN",
        options={
            "norms": (
                *(f"gn:groups={groups}" for groups in _GROUPS),
                *(f"gn:size={size}" for size in _SIZES),
            ),
            "batch_sizes": (32,),
            "models": ("resnet8x4",),
            "learning_rate": _IMAGENET_RATE,
        },
        published=(Published(_IMAGENET, f"{_GN_PAPER}, table 3", _TABLE_3),),
    ),
    "pets": Preset(
        title="ResNet-34 and ResNet-50 on Oxford-IIIT Pets",
        note="; with --bit-checkpoint, fine-tuning (for a GPU)",
        options={
            "dataset": "pets",
            "models": ("resnet34", "resnet50"),
            "batch_sizes": (1, 4, 64),
            "epochs": 25,
            "learning_rate": _IMAGENET_RATE,
            "groups": 32,
            "augment": True,
            "checkpoints": True,
        },
        fine_tuning={
            "models": ("bit-r50x1",),
            "norms": ("gn+ws",),
            "epochs": 10,
            # The 0.003 for 512 images of Big Transfer's rule.
            "learning_rate": 0.003 * 32 / 512,
        },
        published=(_PETS, _BIT),
    ),
    "cifar10": Preset(
        title="BN, GN and GN + WS with a ResNet-20 on CIFAR-10",
        note=" (long on a CPU)",
        options={
            "dataset": "cifar10",
            "models": ("resnet20",),
            "batch_sizes": (2, 8, 32, 128),
            "epochs": 30,
            # 0.1 for 128 images (arXiv 1512.03385, section 4.2).
            "learning_rate": 0.1 * 32 / 128,
            "augment": True,
            "checkpoints": True,
        },
    ),
    "fashion-mnist": Preset(
        title="BN, precise BN, GN and GN + WS with a ResNet-20 on Fashion-MNIST",
        note=" (long on a CPU; --limit 7000 takes a tenth of the images)",
        options={
            "dataset": "fashion-mnist",
            "norms": ("bn", "bn+precise", "gn", "gn+ws"),
            "models": ("resnet20",),
            "batch_sizes": (1, 2, 4, 16, 64),
            "epochs": 10,
            # 0.1 for 128 images, as of the ResNets for CIFAR-10.
            "learning_rate": 0.1 * 32 / 128,
            "checkpoints": True,
        },
    ),
}


def options(name: str | None, fine_tuning: bool) -> dict[str, Any]:
    """Returns the options of a preset.

    Args:
        name: a key of `PRESETS`, or `None` for no options.
        fine_tuning: whether a checkpoint of Big Transfer is fine-tuned.
    """
    if name is None:
        return {}
    preset = PRESETS[name]
    return preset.options | (preset.fine_tuning if fine_tuning else {})
