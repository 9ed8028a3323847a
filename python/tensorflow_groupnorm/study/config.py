"""What is to be trained: the options of a study and of each of its runs, checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path

#: The normalizations, with the sentence that `tfgn study --help` gives for each.
NORMS = {
    "bn": "batch normalization (keras.layers.BatchNormalization, momentum 0.9 as in the paper)",
    "ln": "layer normalization over channels and space (GroupNorm with 1 group)",
    "in": "instance normalization (GroupNorm with as many groups as channels)",
    "gn": "group normalization",
    "ws": "weight standardization without any normalization layer (scaled, as in NFNets)",
    "gn+ws": "group normalization and weight standardization together (as in BiT)",
    "none": "no normalization",
}

#: Learning rates are given for this batch size and scaled linearly from it (arXiv 1706.02677).
REFERENCE_BATCH_SIZE = 32

#: As in the GroupNorm paper (arXiv 1803.08494), an error is the median over the final 5 epochs.
FINAL_EPOCHS = 5


class StudyError(ValueError):
    """A study cannot be done as asked; the message is one sentence for the user."""


class RunError(RuntimeError):
    """A training ended without a result; the message names the run and its output."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message says what is kept."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes of a ResNet for small images (arXiv 1512.03385, section 4.2).

    Attributes:
        blocks: residual blocks of two 3x3 convolutions per stage.
        widths: channels of each stage; every stage after the first halves the resolution.
    """

    blocks: int
    widths: tuple[int, ...]


MODELS = {
    "resnet8": Architecture(blocks=1, widths=(16, 32, 64)),
    "resnet14": Architecture(blocks=2, widths=(16, 32, 64)),
    "resnet20": Architecture(blocks=3, widths=(16, 32, 64)),
    "resnet20x4": Architecture(blocks=3, widths=(64, 128, 256)),
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that the outcome of one training depends on.

    Attributes:
        norm: a key of `NORMS`.
        batch_size: images per training step.
        seed: of the initial weights and of the order of the images.
        epochs: passes over the training images.
        learning_rate: the rate at `REFERENCE_BATCH_SIZE`; see `peak_learning_rate`.
        groups: groups of each GroupNorm (-1: as many as channels), `None` if it has none or
            `group_size` is given.
        group_size: channels per group, or `None`.
        model: a key of `MODELS`.
        data: digest of the training and validation images.
        software: the versions that train, and whether the fused ops are on.
    """

    norm: str
    batch_size: int
    seed: int
    epochs: int
    learning_rate: float
    groups: int | None
    group_size: int | None
    model: str
    data: str
    software: str

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate at this batch size, before its cosine decay."""
        return self.learning_rate * self.batch_size / REFERENCE_BATCH_SIZE

    @property
    def name(self) -> str:
        """A file name for people, unique to this configuration."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
        return f"{self.norm}-batch{self.batch_size}-seed{self.seed}-{digest}"


@dataclasses.dataclass(frozen=True)
class Study:
    """The options of a study; the defaults are those of `tfgn study`.

    Attributes:
        norms: keys of `NORMS`.
        batch_sizes: images per training step, at least 1 each.
        seeds: one run each, for the spread.
        epochs: passes over the training images.
        learning_rate: the rate for a batch of `REFERENCE_BATCH_SIZE`.
        groups: groups of each GroupNorm of `gn` and `gn+ws`; `None` to give `group_size`. The
            paper's 32 groups are for 256 channels and more, the small networks here start at 16.
        group_size: channels per group, or `None`.
        model: a key of `MODELS`.
        data: a folder with one folder of images per class; `None` for the digits of scikit-learn.
        image_size: side of the square images in pixels; `None` for 8 (digits) or 64 (a folder).
        validation_split: the part of the images that validates; `None` for 0.5 (digits) or 0.2.
        out: the folder for the results.
        workers: how many runs train at a time, each with its part of the cores.

    Raises:
        StudyError: if an option is out of its range.
    """

    norms: tuple[str, ...] = ("bn", "gn", "gn+ws")
    batch_sizes: tuple[int, ...] = (1, 2, 4, 16, 64)
    seeds: tuple[int, ...] = (0,)
    epochs: int = 8
    learning_rate: float = 0.1
    groups: int | None = 8
    group_size: int | None = None
    model: str = "resnet8"
    data: Path | None = None
    image_size: int | None = None
    validation_split: float | None = None
    out: Path = Path("tfgn-study")
    workers: int = 1

    def __post_init__(self):
        """Fills in the defaults that depend on the data, and checks."""
        defaults = (8, 0.5) if self.data is None else (64, 0.2)
        for field, default in zip(("image_size", "validation_split"), defaults, strict=True):
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)
        for field in ("norms", "batch_sizes", "seeds"):
            values = tuple(dict.fromkeys(getattr(self, field)))
            if not values:
                raise StudyError(f"{field} must not be empty")
            object.__setattr__(self, field, values)
        self._check_numbers()
        self._check_model()

    def _check_numbers(self):
        for batch_size in self.batch_sizes:
            _check(batch_size >= 1, "batch_sizes", batch_size, "at least 1")
        for seed in self.seeds:
            _check(0 <= seed < 2**32, "seeds", seed, "between 0 and 2**32 - 1")
        _check(self.workers >= 1, "workers", self.workers, "at least 1")
        _check(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        rate = self.learning_rate
        _check(math.isfinite(rate) and rate > 0, "learning_rate", rate, "a finite number above 0")
        # Three stages halve the resolution twice: 4 pixels are the least that leave one.
        _check(self.image_size >= 4, "image_size", self.image_size, "at least 4 pixels")
        split = self.validation_split
        _check(0 < split < 1, "validation_split", split, "between 0 and 1")

    def _check_model(self):
        for norm in self.norms:
            _check(norm in NORMS, "norms", norm, f"among {', '.join(NORMS)}")
        _check(self.model in MODELS, "model", self.model, f"among {', '.join(MODELS)}")
        if (self.groups is None) == (self.group_size is None):
            raise StudyError("exactly one of groups and group_size must be given")
        if not any("gn" in norm for norm in self.norms):
            return
        field = "groups" if self.group_size is None else "group_size"
        value = getattr(self, field)
        widths = MODELS[self.model].widths
        _check(
            value >= 1 and not any(width % value for width in widths),
            field,
            value,
            f"a divisor of the {', '.join(map(str, widths))} channels of {self.model}",
        )

    def runs(self, data: str, software: str) -> list[RunConfig]:
        """Lists the trainings of the study, the shortest first.

        Args:
            data: digest of the images.
            software: the versions that train.

        Returns:
            One `RunConfig` per batch size, norm and seed.
        """
        return [
            RunConfig(
                norm=norm,
                batch_size=batch_size,
                seed=seed,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                groups={"ln": 1, "in": -1, "gn": self.groups, "gn+ws": self.groups}.get(norm),
                group_size=self.group_size if "gn" in norm else None,
                model=self.model,
                data=data,
                software=software,
            )
            for batch_size in sorted(self.batch_sizes, reverse=True)
            for norm in self.norms
            for seed in self.seeds
        ]


def _check(valid: bool, field: str, value, expected: str):
    if not valid:
        raise StudyError(f"{field} must be {expected}; received {value!r}")
