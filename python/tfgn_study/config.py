"""What is to be trained: the options of a study and of each of its runs, checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path

from .errors import Interrupted, RunError, StudyError
from .networks import MODELS
from .norms import NORMS, Variant, parse

__all__ = ["NORMS", "Interrupted", "RunConfig", "RunError", "Study", "StudyError", "Variant"]

#: Learning rates are given for this batch size and scaled linearly from it (arXiv 1706.02677).
REFERENCE_BATCH_SIZE = 32

#: As in the GroupNorm paper (arXiv 1803.08494), an error is the median over the final 5 epochs.
FINAL_EPOCHS = 5


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
        augment: whether training images are flipped and shifted at random.
        ema: momentum of the average of the weights that validates, or `None`.
        clip_norm: the largest norm of all gradients together, or `None`.
        agc: the largest norm of a unit's gradient relative to its weights', or `None`.
        mixed_precision: `"float16"`, `"bfloat16"` or `None`.
        jit: whether XLA compiles the training step; `None` where Keras decides.
        bit_checkpoint: digest of the checkpoint that is fine-tuned, or `None`.
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
    augment: bool = False
    ema: float | None = None
    clip_norm: float | None = None
    agc: float | None = None
    mixed_precision: str | None = None
    jit: bool | None = None
    bit_checkpoint: str | None = None

    def as_dict(self) -> dict:
        """Returns the fields, without those that came later and are not used.

        Runs from before there was an option stay valid where it is left alone.
        """
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    @property
    def variant(self) -> Variant:
        """The normalization with its groups."""
        return Variant(self.norm, self.groups, self.group_size)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate at this batch size, before its cosine decay."""
        return self.learning_rate * self.batch_size / REFERENCE_BATCH_SIZE

    @property
    def name(self) -> str:
        """A file name for people, unique to this configuration."""
        canonical = json.dumps(self.as_dict(), sort_keys=True)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
        return f"{self.norm}-batch{self.batch_size}-seed{self.seed}-{digest}"


#: Side in pixels, and the part that validates where a data set has no split of its own.
DATA_DEFAULTS = {
    "digits": (8, 0.5),
    "folder": (64, 0.2),
    "pets": (128, None),
    "cifar10": (32, None),
}

PRECISIONS = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Study:
    """The options of a study; the defaults are those of `tfgn study`.

    Attributes:
        norms: keys of `NORMS`, or as in `gn:groups=4` and `gn:size=4`.
        batch_sizes: images per training step, at least 1 each.
        seeds: one run each, for the spread; `None` for 0, 1 and 2 (digits) or 0.
        epochs: passes over the training images.
        learning_rate: the rate for a batch of `REFERENCE_BATCH_SIZE`.
        groups: groups of each GroupNorm of `gn` and `gn+ws`; `None` to give `group_size`. The
            paper's 32 groups are for 256 channels and more, the small networks here start at 16.
        group_size: channels per group, or `None`.
        models: keys of `MODELS`.
        dataset: a key of `DATA_DEFAULTS`; `None` for a folder where `data` is given, else digits.
        data: a folder with one folder of images per class, or an unpacked `dataset`.
        image_size: side of the square images in pixels; `None` for that of `DATA_DEFAULTS`.
        validation_split: the part of the images that validates; `None` for that of
            `DATA_DEFAULTS`.
        augment: whether training images are flipped and shifted at random.
        ema: momentum of an average of the weights that validates in their place, or `None`.
        clip_norm: the largest norm of all gradients together, or `None`.
        agc: the largest norm of a unit's gradient relative to its weights', or `None`.
        mixed_precision: one of `PRECISIONS`, or `None` for float32.
        jit: whether XLA compiles the training step; `None` where Keras decides.
        bit_checkpoint: `.npz` file of Big Transfer to fine-tune, or `None`.
        checkpoints: whether a run that is interrupted goes on from its last epoch.
        preset: a key of `presets.PRESETS` whose published numbers are reported, or `None`.
        out: the folder for the results.
        workers: how many runs train at a time, each with its part of the cores; `None` for 2
            (digits, whose networks are too small for more than one core) or 1.

    Raises:
        StudyError: if an option is out of its range.
    """

    norms: tuple[str, ...] = ("bn", "gn", "gn+ws")
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64)
    seeds: tuple[int, ...] | None = None
    epochs: int = 8
    learning_rate: float = 0.1
    groups: int | None = 8
    group_size: int | None = None
    models: tuple[str, ...] = ("resnet8",)
    dataset: str | None = None
    data: Path | None = None
    image_size: int | None = None
    validation_split: float | None = None
    augment: bool = False
    ema: float | None = None
    clip_norm: float | None = None
    agc: float | None = None
    mixed_precision: str | None = None
    jit: bool | None = None
    bit_checkpoint: Path | None = None
    checkpoints: bool = False
    preset: str | None = None
    out: Path = Path("tfgn-study")
    workers: int | None = None

    def __post_init__(self):
        """Fills in the defaults that depend on the data, and checks."""
        if self.dataset is None:
            object.__setattr__(self, "dataset", "digits" if self.data is None else "folder")
        image_size, validation_split = DATA_DEFAULTS[self.dataset]
        if validation_split is None and self.validation_split is not None:
            raise StudyError(
                f"validation_split must be left out: {self.dataset} comes with a split of its own"
            )
        defaults = {
            "image_size": image_size,
            "validation_split": validation_split,
            "seeds": (0, 1, 2) if self.dataset == "digits" else (0,),
            "workers": 2 if self.dataset == "digits" else 1,
        }
        for field, default in defaults.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)
        for field in ("norms", "batch_sizes", "seeds", "models"):
            values = tuple(dict.fromkeys(getattr(self, field)))
            if not values:
                raise StudyError(f"{field} must not be empty")
            object.__setattr__(self, field, values)
        self._check_numbers()
        self._check_training()
        for model in self.models:
            _check(model in MODELS, "model", model, f"among {', '.join(MODELS)}")
        self._check_groups()
        for model in self.models:
            least = MODELS[model].least_image_size
            wanted = f"at least {least} pixels for {model}" if least > 4 else "at least 4 pixels"
            _check(self.image_size >= least, "image_size", self.image_size, wanted)
        self._check_checkpoint()

    def _check_numbers(self):
        for batch_size in self.batch_sizes:
            _check(batch_size >= 1, "batch_sizes", batch_size, "at least 1")
        for seed in self.seeds:
            _check(0 <= seed < 2**32, "seeds", seed, "between 0 and 2**32 - 1")
        _check(self.workers >= 1, "workers", self.workers, "at least 1")
        _check(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        rate = self.learning_rate
        _check(math.isfinite(rate) and rate > 0, "learning_rate", rate, "a finite number above 0")
        split = self.validation_split
        _check(split is None or 0 < split < 1, "validation_split", split, "between 0 and 1")

    def _check_training(self):
        ema, precision = self.ema, self.mixed_precision
        _check(ema is None or 0 < ema < 1, "ema", ema, "between 0 and 1")
        for field in ("clip_norm", "agc"):
            value = getattr(self, field)
            finite = value is None or (math.isfinite(value) and value > 0)
            _check(finite, field, value, "a finite number above 0")
        known = precision is None or precision in PRECISIONS
        _check(known, "mixed_precision", precision, f"among {', '.join(PRECISIONS)}")

    def _check_groups(self):
        if (self.groups is None) == (self.group_size is None):
            raise StudyError("exactly one of groups and group_size must be given")
        for variant in self.variants().values():
            if "gn" not in variant.norm:
                continue
            field = "groups" if variant.group_size is None else "group_size"
            value = getattr(variant, field)
            for model in self.models:
                widths = MODELS[model].widths
                _check(
                    value >= 1 and not any(width % value for width in widths),
                    field,
                    value,
                    f"a divisor of the {', '.join(map(str, widths))} channels of {model}",
                )

    def _check_checkpoint(self):
        if self.bit_checkpoint is None:
            return
        if not self.bit_checkpoint.is_file():
            raise StudyError(
                f"bit_checkpoint must be a .npz file of Big Transfer; there is no file "
                f"{self.bit_checkpoint}"
            )
        for model in self.models:
            names = ", ".join(name for name, model in MODELS.items() if model.reads_bit)
            _check(MODELS[model].reads_bit, "model", model, f"among {names} to read a checkpoint")
        for text, variant in self.variants().items():
            as_published = (variant.norm, variant.groups) == ("gn+ws", 32)
            _check(as_published, "norms", text, "gn+ws with 32 groups to read a checkpoint")

    def variants(self) -> dict[str, Variant]:
        """Returns what each of `norms` stands for."""
        return self.parse_norms(dataclasses.asdict(self))

    @staticmethod
    def parse_norms(options: dict) -> dict[str, Variant]:
        """Returns what each of `norms` stands for, from the fields of a study."""
        groups, group_size = options["groups"], options["group_size"]
        return {text: parse(text, groups, group_size) for text in options["norms"]}

    def runs(self, data: str, software: str, bit_checkpoint: str | None = None) -> list[RunConfig]:
        """Lists the trainings of the study, the shortest first.

        Args:
            data: digest of the images.
            software: the versions that train.
            bit_checkpoint: digest of the checkpoint, or `None`.

        Returns:
            One `RunConfig` per model, batch size, norm and seed.
        """
        return [
            RunConfig(
                **dataclasses.asdict(variant),
                batch_size=batch_size,
                seed=seed,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                model=model,
                data=data,
                software=software,
                augment=self.augment,
                ema=self.ema,
                clip_norm=self.clip_norm,
                agc=self.agc,
                mixed_precision=self.mixed_precision,
                jit=self.jit,
                bit_checkpoint=bit_checkpoint,
            )
            for model in self.models
            for batch_size in sorted(self.batch_sizes, reverse=True)
            for variant in dict.fromkeys(self.variants().values())
            for seed in self.seeds
        ]


def _check(valid: bool, field: str, value, expected: str):
    if not valid:
        raise StudyError(f"{field} must be {expected}; received {value!r}")
