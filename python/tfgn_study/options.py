"""The options of a study, each described once, as the user asks for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import presets
from .description import ABOVE_0, AT_LEAST_1, BETWEEN_0_AND_1, Range, among, describe, option
from .networks import MODELS, TASKS
from .norms import NORMS

#: Learning rates are given for this batch size and scaled linearly from it (arXiv 1706.02677).
REFERENCE_BATCH_SIZE = 32

#: As in the GroupNorm paper (arXiv 1803.08494), an error is the median over the final 5 epochs.
FINAL_EPOCHS = 5

#: The learning rates that are tried by default, as multiples of `learning_rate`.
TUNING_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)

#: The part of the training images that is held out to try them.
HELD_OUT = 0.2

#: Pixels of this value in a mask belong to no class, as in PASCAL VOC.
IGNORED = 255

PRECISIONS = ("float16", "bfloat16")

#: The titles of the sections of the help, in their order.
COMPARED, IMAGES, TRAINING, RUNNING = SECTIONS = (
    "what is compared",
    "images",
    "training",
    "running",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataDefaults:
    """The defaults that depend on the data set.

    Attributes:
        image_size: side of the images in pixels.
        validation_split: fraction of the images for validation, `None` if the data set comes with
            a split of its own.
        seeds: one seed, or several if the networks train fast.
        workers: 2 if the networks are too small to use more than one core.
    """

    image_size: int
    validation_split: float | None = None
    seeds: tuple[int, ...] = (0,)
    workers: int = 1


DATASETS = {
    "digits": DataDefaults(image_size=8, validation_split=0.5, seeds=(0, 1, 2), workers=2),
    "folder": DataDefaults(image_size=64, validation_split=0.2),
    "masks": DataDefaults(image_size=64, validation_split=0.2),
    "pets": DataDefaults(image_size=128),
    "cifar10": DataDefaults(image_size=32),
    "fashion-mnist": DataDefaults(image_size=28),
}


def _by_dataset(field: str) -> str:
    """Returns the default for a folder, and those of the data sets for which it is another."""

    def text(name: str) -> str:
        value = getattr(DATASETS[name], field)
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    others = [name for name in DATASETS if text(name) not in (text("folder"), "None")]
    return "; ".join([text("folder"), *(f"{name}: {text(name)}" for name in others)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The options of every training of a study, on which its result depends."""

    epochs: int = option(
        8,
        section=TRAINING,
        metavar="N",
        range=AT_LEAST_1,
        help="passes over the training images; the reported error is the median over the last "
        f"{FINAL_EPOCHS}",
    )
    learning_rate: float = option(
        0.1,
        section=TRAINING,
        metavar="RATE",
        range=ABOVE_0,
        help=f"learning rate for a batch size of {REFERENCE_BATCH_SIZE}; it is scaled linearly "
        "with the batch size and decays to 0 along a cosine. The default is for resnet8; larger "
        "networks need less, and their presets use the rates of the papers",
    )
    augment: bool = option(
        False,
        section=TRAINING,
        help="flip and shift training images at random",
        sentence="Training images are flipped and shifted by up to 1/8 of their side at random.",
    )
    ema: float | None = option(
        None,
        section=TRAINING,
        metavar="MOMENTUM",
        range=BETWEEN_0_AND_1,
        help="validate with an exponential moving average of the weights; typically 0.99",
        sentence="Validation uses an exponential moving average of the weights with momentum {}. "
        "The statistics of BatchNorm are not averaged further.",
    )
    clip_norm: float | None = option(
        None,
        section=TRAINING,
        metavar="NORM",
        range=ABOVE_0,
        help="scale the gradients down if the norm of all of them together exceeds NORM",
        sentence="Gradients are scaled down if the norm of all of them together exceeds {}.",
    )
    agc: float | None = option(
        None,
        section=TRAINING,
        metavar="FACTOR",
        range=ABOVE_0,
        help="adaptive gradient clipping: scale the gradient of a unit down if its norm exceeds "
        "FACTOR times the norm of the unit's weights; typically 0.01",
        sentence="Adaptive gradient clipping (arXiv 2102.06171): in all layers but the last, the "
        "gradient of a unit is scaled down if its norm exceeds {} times the norm of its weights.",
    )
    mixed_precision: str | None = option(
        None,
        section=TRAINING,
        metavar="DTYPE",
        range=among(PRECISIONS),
        help=f"compute in {' or '.join(PRECISIONS)}, with float32 weights",
        sentence="Layers compute in {}, with float32 weights and logits.",
    )
    jit: bool | None = option(
        None,
        section=TRAINING,
        shown_default="Keras decides; yes on a GPU",
        help="compile the training step with XLA",
        sentence="XLA compiles the training step.",
    )
    save_memory: bool = option(
        False,
        section=TRAINING,
        help="train the networks with GroupNorm in less memory, with the same results: what a norm "
        "returns is computed again in the backward pass",
        sentence="The networks with GroupNorm are made with `save_memory=True`: they compute what "
        "a norm returns to the convolutions behind it again in the backward pass.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Training):
    """The options of a study as asked for; see `config.resolve`.

    `None` means that an option is not used or that its value depends on the data set.
    """

    preset: str | None = option(
        None,
        choices=presets.PRESETS,
        help="experiment from a paper; the report shows the published numbers beside the measured "
        "ones. See below",
    )
    task: str = option(
        "classification",
        section=COMPARED,
        choices=TASKS,
        range=among(TASKS),
        help="what the networks learn: the class of an image, or that of every pixel, for which "
        "--data and --masks are needed",
    )
    norms: tuple[str, ...] = option(
        ("bn", "gn", "gn+ws"),
        section=COMPARED,
        metavar="NORM",
        help=f"normalizations, among {', '.join(NORMS)}, which are explained below; gn:groups=4 is "
        "gn with 4 groups, gn:size=4 is gn with 4 channels per group",
    )
    batch_sizes: tuple[int, ...] = option(
        (1, 4, 16, 64),
        section=COMPARED,
        metavar="N",
        range=AT_LEAST_1,
        help="images per training step",
    )
    seeds: tuple[int, ...] | None = option(
        None,
        section=COMPARED,
        metavar="SEED",
        range=Range(lambda seed: 0 <= seed < 2**32, "between 0 and 2**32 - 1"),
        shown_default=_by_dataset("seeds"),
        help="seeds of the initial weights and of the order of the images; with several, the "
        "report shows means and ranges",
    )
    models: tuple[str, ...] | None = option(
        None,
        flag="--model",
        section=COMPARED,
        metavar="MODEL",
        range=among(MODELS),
        shown_default=f"{TASKS['classification']}; segmentation: {TASKS['segmentation']}",
        help=f"networks, among {', '.join(MODELS)}",
    )
    #: The paper's 32 groups are for 256 channels and more; the small networks here start at 16.
    groups: int | None = option(
        8,
        section=COMPARED,
        metavar="N",
        help="number of groups of gn, gn+ws, gn+pn, bcn+ws and evonorm-s0",
    )
    group_size: int | None = option(
        None,
        replaces="groups",
        section=COMPARED,
        metavar="N",
        help="channels per group, instead of --groups",
    )
    dataset: str | None = option(
        None,
        section=IMAGES,
        choices=DATASETS,
        range=among(DATASETS),
        shown_default="digits; folder with --data, masks with --masks",
        help="the handwritten digits of scikit-learn, the images of a folder, such with a mask "
        "each, Oxford-IIIT Pets, CIFAR-10 or Fashion-MNIST",
    )
    data: Path | None = option(
        None,
        section=IMAGES,
        metavar="DIR",
        help="folder with one folder of PNG or JPEG images per class; with --dataset pets, cifar10 "
        "or fashion-mnist, the folder of the data set (default: the first two are downloaded by "
        "tensorflow-datasets; the last is taken from Debian's package dataset-fashion-mnist, or "
        "downloaded by Keras); with --task segmentation, a folder of PNG or JPEG images",
    )
    masks: Path | None = option(
        None,
        section=IMAGES,
        metavar="DIR",
        help="folder with a PNG for each image of --data, of the same name and size, that has the "
        f"index of a class in each pixel, or {IGNORED} where there is none",
    )
    limit: int | None = option(
        None,
        section=IMAGES,
        metavar="N",
        range=AT_LEAST_1,
        shown_default="all",
        help="take N of the images, with the same share of each class and of training images",
    )
    train_limit: int | None = option(
        None,
        section=IMAGES,
        metavar="N",
        range=AT_LEAST_1,
        shown_default="all",
        help="take N of the training images, with the same share of each class",
    )
    validation_limit: int | None = option(
        None,
        section=IMAGES,
        metavar="N",
        range=AT_LEAST_1,
        shown_default="all",
        help="take N of the validation images, with the same share of each class",
    )
    image_size: int | None = option(
        None,
        section=IMAGES,
        metavar="PIXELS",
        shown_default=_by_dataset("image_size"),
        help="side of the square to which images are cropped and resized",
    )
    validation_split: float | None = option(
        None,
        section=IMAGES,
        metavar="FRACTION",
        range=BETWEEN_0_AND_1,
        shown_default=_by_dataset("validation_split"),
        help="fraction of the images for validation; all runs use the same split",
    )
    tune_learning_rate: bool = option(
        False,
        section=TRAINING,
        help="choose the learning rate of each norm and batch size among the --tuning-factors: one "
        "run each with the first seed, which a fifth of the training images, held out, judges",
        sentence="The learning rates were chosen on a fifth of the training images, held out, with "
        "the first seed and the same number of trials for each norm and batch size; the validation "
        "images had no part in it.",
    )
    tuning_factors: tuple[float, ...] = option(
        TUNING_FACTORS,
        section=TRAINING,
        metavar="FACTOR",
        range=ABOVE_0,
        help="the learning rates that --tune-learning-rate tries, as multiples of --learning-rate",
    )
    bit_checkpoint: Path | None = option(
        None,
        section=TRAINING,
        metavar="NPZ",
        help="fine-tune this checkpoint of Big Transfer; requires --model bit-r50x1 or another "
        "bit-...",
        sentence="The networks start from the checkpoint `{}`, with logits of 0.",
    )
    out: Path = option(
        Path("tfgn-study"),
        section=RUNNING,
        metavar="DIR",
        help="folder for report.html, report.md, results.json, the plots and the finished runs",
    )
    workers: int | None = option(
        None,
        section=RUNNING,
        metavar="N",
        range=AT_LEAST_1,
        shown_default=_by_dataset("workers"),
        help="train N runs at a time, each on its share of the cores; errors remain comparable, "
        "step times do not",
    )
    checkpoints: bool = option(
        False,
        section=RUNNING,
        help="save the state of a run after each epoch, so that an interrupted run continues "
        "after its last epoch",
    )


def of(given: Mapping[str, Any]) -> Options:
    """Returns the options given by a user, over those of the preset, over the defaults.

    Args:
        given: fields of `Options` with their values.
    """
    chosen = presets.options(given.get("preset"), given.get("bit_checkpoint") is not None)
    for described in describe(Options):
        if described.field in given and described.replaces is not None:
            chosen[described.replaces] = None
    return Options(**chosen | dict(given))
