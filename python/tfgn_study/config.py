"""What a study trains: its options resolved and checked, and the configuration of each run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from .description import describe, require
from .errors import StudyError
from .networks import MODELS, TASKS
from .norms import NORMS, Variant, variants
from .options import DATASETS, REFERENCE_BATCH_SIZE, Options, Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Training):
    """Everything that the result of one training depends on.

    Attributes:
        norm: a key of `NORMS`.
        batch_size: images per training step.
        seed: seed of the initial weights and of the order of the images.
        groups: groups of each normalization, -1 for as many as channels; `None` if it has no
            groups or `group_size` is given.
        group_size: channels per group, or `None`.
        model: a key of `MODELS`.
        data: digest of the training and validation images.
        software: the versions of the software, and whether the fused ops are on.
        bit_checkpoint: digest of the checkpoint that is fine-tuned, or `None`.
    """

    norm: str
    batch_size: int
    seed: int
    groups: int | None
    group_size: int | None
    model: str
    data: str
    software: str
    bit_checkpoint: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields, without the options that are not used.

        The results of earlier runs thus stay valid when a new option is added.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        unused = {
            field.name
            for field in dataclasses.fields(self)
            if field.default in (None, False) and values[field.name] is field.default
        }
        return {name: value for name, value in values.items() if name not in unused}

    @property
    def variant(self) -> Variant:
        """The normalization with its groups."""
        return Variant(self.norm, self.groups, self.group_size)

    @property
    def accumulated_batches(self) -> int:
        """Number of batches whose mean gradient makes an update of the weights."""
        return math.ceil(NORMS[self.norm].update_size / self.batch_size)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate for the images of an update, before it decays."""
        images = self.batch_size * self.accumulated_batches
        return self.learning_rate * images / REFERENCE_BATCH_SIZE

    @property
    def clipping_factor(self) -> float | None:
        """The factor of adaptive gradient clipping, or `None`."""
        return NORMS[self.norm].agc if self.agc is None else self.agc

    @property
    def twin(self) -> RunConfig | None:
        """The run whose result this training gives as well, or `None`; see `Norm.twin`."""
        norm = NORMS[self.norm].twin
        return None if norm is None else dataclasses.replace(self, norm=norm)

    @property
    def name(self) -> str:
        """A readable file name, unique to this configuration."""
        canonical = json.dumps(self.as_dict(), sort_keys=True)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
        return f"{self.norm}-batch{self.batch_size}-seed{self.seed}-{digest}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Options):
    """The options of a study, checked and without open questions; see `resolve`.

    Attributes:
        models: keys of `MODELS`.
        seeds: one run for each.
        dataset: a key of `DATASETS`.
        image_size: side of the square images in pixels.
        workers: number of runs that train at a time, each on its share of the cores.
    """

    models: tuple[str, ...] = dataclasses.field()
    seeds: tuple[int, ...] = dataclasses.field()
    dataset: str = dataclasses.field()
    image_size: int = dataclasses.field()
    workers: int = dataclasses.field()

    def variants(self) -> dict[str, Variant]:
        """Returns what each of `norms` stands for."""
        return variants(self.norms, self.groups, self.group_size)

    def runs(
        self,
        data: str,
        software: str,
        bit_checkpoint: str | None = None,
        learning_rates: Mapping[tuple[str, Variant, int], float] | None = None,
    ) -> list[RunConfig]:
        """Lists the trainings of the study, the shortest first.

        Args:
            data: digest of the images.
            software: the versions of the software.
            bit_checkpoint: digest of the checkpoint, or `None`.
            learning_rates: learning rates by model, variant and batch size; `learning_rate` for
                those that it does not have.

        Returns:
            One `RunConfig` per model, batch size, norm and seed.
        """
        training = {field.name: getattr(self, field.name) for field in dataclasses.fields(Training)}
        rates = learning_rates or {}
        return [
            RunConfig(
                **training
                | self._memory_of(variant)
                | {"learning_rate": rates.get((model, variant, batch_size), self.learning_rate)},
                **dataclasses.asdict(variant),
                batch_size=batch_size,
                seed=seed,
                model=model,
                data=data,
                software=software,
                bit_checkpoint=bit_checkpoint,
            )
            for model in self.models
            for batch_size in sorted(self.batch_sizes, reverse=True)
            for variant in dict.fromkeys(self.variants().values())
            for seed in self.seeds
        ]

    def trials(
        self, data: str, software: str, bit_checkpoint: str | None = None
    ) -> list[RunConfig]:
        """Lists the trainings that tune the learning rates: `tuning_factors`, the first seed.

        Args:
            data: digest of the images, of which a part is held out.
            software: the versions of the software.
            bit_checkpoint: digest of the checkpoint, or `None`.
        """
        return [
            dataclasses.replace(run, learning_rate=self.learning_rate * factor)
            for run in self.runs(data, software, bit_checkpoint)
            if run.seed == self.seeds[0]
            for factor in self.tuning_factors
        ]

    def _memory_of(self, variant: Variant) -> dict[str, bool]:
        # Runs to which the option does not apply are those of a study without the option.
        return {"save_memory": self.save_memory and variant.saves_memory}


def resolve(options: Options) -> Study:
    """Fills in the defaults that depend on the data set, and checks the options.

    Args:
        options: the options as asked for.

    Returns:
        The study, with each of several values once.

    Raises:
        StudyError: if an option is out of its range, or if two options contradict each other.
    """
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Options)}
    for described in describe(Options):
        described.check(values[described.field])
    _check_task(options)
    dataset = options.dataset or _dataset_of(options)
    defaults = dataclasses.asdict(DATASETS[dataset])
    if defaults["validation_split"] is None and options.validation_split is not None:
        raise StudyError(
            f"--validation-split must be left out: {dataset} comes with a split of its own"
        )
    if options.limit is not None and (options.train_limit or options.validation_limit):
        raise StudyError(
            "--limit must be left out where --train-limit or --validation-limit is given"
        )
    if dataset == "digits" and options.data is not None:
        raise StudyError("--data must be left out: the digits are part of scikit-learn")
    defaults |= {"dataset": dataset, "models": (TASKS[options.task],)}
    for field, default in defaults.items():
        if values[field] is None:
            values[field] = default
    for field, value in values.items():
        if isinstance(value, tuple):
            values[field] = tuple(dict.fromkeys(value))
    study = Study(**values)
    _check_groups(study)
    _check_image_size(study)
    _check_checkpoint(study)
    _check_save_memory(study)
    _check_training(study)
    return study


def _dataset_of(options: Options) -> str:
    if options.task == "segmentation":
        return "masks"
    return "digits" if options.data is None else "folder"


def _check_task(options: Options) -> None:
    segments = options.task == "segmentation"
    for name in ("data", "masks"):
        if segments and getattr(options, name) is None:
            raise StudyError(
                f"--{name} must be given with --task=segmentation: a folder of images and one of "
                "their masks"
            )
    if options.masks is not None and not segments:
        raise StudyError("--masks must be left out unless --task=segmentation")
    if options.dataset is not None and (options.dataset == "masks") != segments:
        raise StudyError(
            "--dataset must be masks or left out with --task=segmentation, another without; "
            f"received {options.dataset!r}"
        )
    for model in options.models or ():
        names = ", ".join(name for name, kind in MODELS.items() if kind.task == options.task)
        wanted = f"among {names} for {options.task}"
        require(MODELS[model].task == options.task, "--model", model, wanted)


def _check_groups(study: Study) -> None:
    if (study.groups is None) == (study.group_size is None):
        raise StudyError("exactly one of --groups and --group-size must be given")
    for variant in study.variants().values():
        if not NORMS[variant.norm].takes_groups:
            continue
        for flag, value in (("--groups", variant.groups), ("--group-size", variant.group_size)):
            if value is None:
                continue
            for model in study.models:
                widths = MODELS[model].widths
                require(
                    value >= 1 and not any(width % value for width in widths),
                    flag,
                    value,
                    f"a divisor of the {', '.join(map(str, widths))} channels of {model}",
                )


def _check_image_size(study: Study) -> None:
    for model in study.models:
        least = MODELS[model].least_image_size
        wanted = f"at least {least} pixels for {model}" if least > 4 else "at least 4 pixels"
        require(study.image_size >= least, "--image-size", study.image_size, wanted)
        step = MODELS[model].image_size_step
        wanted = f"a multiple of {step} pixels for {model}"
        require(study.image_size % step == 0, "--image-size", study.image_size, wanted)


def _check_checkpoint(study: Study) -> None:
    if study.bit_checkpoint is None:
        return
    if not study.bit_checkpoint.is_file():
        raise StudyError(
            "--bit-checkpoint must be a .npz file of Big Transfer; there is no file "
            f"{study.bit_checkpoint}"
        )
    readers = ", ".join(name for name, model in MODELS.items() if model.reads_bit)
    for model in study.models:
        wanted = f"among {readers} to read a checkpoint"
        require(MODELS[model].reads_bit, "--model", model, wanted)
    for text, variant in study.variants().items():
        as_published = (variant.norm, variant.groups) == ("gn+ws", 32)
        require(as_published, "--norms", text, "gn+ws with 32 groups to read a checkpoint")


def _check_save_memory(study: Study) -> None:
    names = [name for name, norm in NORMS.items() if norm.saves_memory]
    wanted = f"no, unless one of the norms is {', '.join(names[:-1])} or {names[-1]}"
    saves_memory = any(variant.saves_memory for variant in study.variants().values())
    require(saves_memory or not study.save_memory, "--save-memory", study.save_memory, wanted)
    if study.save_memory and study.task == "segmentation":
        raise StudyError("--save-memory must be no with --task=segmentation")


def _check_training(study: Study) -> None:
    for name in {variant.norm: None for variant in study.variants().values()}:
        least = NORMS[name].least_epochs
        require(study.epochs >= least, "--epochs", study.epochs, f"at least {least} for {name}")
        if NORMS[name].update_size > 1 and study.agc is not None:
            raise StudyError(
                f"--agc must be left out: {name} accumulates gradients, --agc clips each"
            )
