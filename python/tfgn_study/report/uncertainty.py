"""How far an error, or the difference of two errors, may be off by chance.

Two things are left to chance: the seed of a run and the images that validate it. Every norm has the
same seeds and the same images, so that the differences between norms are taken seed by seed and
image by image.

The variance of a mean over S seeds and N images is

    seeds / S + images / N + both / (S N)

of which the seeds show the first and the last term (their variance / S), and resampled images show
the two others. As few seeds show their variance badly, the interval takes the quantile of Student's
t instead of that of the normal distribution; its degrees of freedom are those of a study with many
readers and many cases (Hillis, Statistics in Medicine 26(3), 2007), which has the same two factors.
Resampling the seeds as well would not do: whatever lies within the range of three seeds is an
interval of at most 75% (1 - 2 / 2^3).

In simulations, the intervals of differences hold the truth in 93 to 98% of all studies with three
seeds or more, and in 90% with two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from .. import mistakes
from ..options import FINAL_EPOCHS

CONFIDENCE = 0.95

#: The width of an interval is then known to 2% (1 / sqrt(2 * 1000)).
RESAMPLES = 1000

#: Resamples that are held in memory at a time.
_BLOCK = 100


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its interval of 95% confidence.

    Attributes:
        value: the mean over the seeds.
        low: lower end of the interval; `None` if the results do not tell, as for one seed of which
            it is not known which images were wrong.
        high: upper end, or `None`.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclasses.dataclass(frozen=True)
class Errors:
    """The errors of the runs that differ in their seed alone.

    Attributes:
        of_seed: the error of each seed, in [0, 1].
        resampled: the errors of each seed on `RESAMPLES` resamples of the images, which are the
            same for all runs of a study; `None` if the images that were wrong are not known.
        images: number of validation images.
    """

    of_seed: Mapping[int, float]
    resampled: Mapping[int, np.ndarray] | None
    images: int

    @classmethod
    def of(
        cls, runs: Sequence[Mapping[str, Any]], resampled: Sequence[np.ndarray | None], images: int
    ) -> Errors:
        """Returns the errors of runs, given what `resampled_errors` returns for them."""
        seeds = [run["config"]["seed"] for run in runs]
        known = {seed: x for seed, x in zip(seeds, resampled, strict=True) if x is not None}
        return cls(
            dict(zip(seeds, (run["error"] for run in runs), strict=True)),
            known if len(known) == len(seeds) else None,
            images,
        )

    def mean(self) -> Estimate:
        """Returns the mean error."""
        seeds = list(self.of_seed)
        mean = interval([self.of_seed[s] for s in seeds], self._resampled(seeds), self.images)
        if mean.low is None or mean.high is None:
            return mean
        return Estimate(mean.value, max(0.0, mean.low), min(1.0, mean.high))

    def minus(self, other: Errors) -> Estimate:
        """Returns the mean difference to the errors of the same seeds and images."""
        seeds = [seed for seed in self.of_seed if seed in other.of_seed]
        mine, theirs = self._resampled(seeds), other._resampled(seeds)
        differences = [self.of_seed[seed] - other.of_seed[seed] for seed in seeds]
        resampled = None if mine is None or theirs is None else mine - theirs
        return interval(differences, resampled, self.images)

    def _resampled(self, seeds: Sequence[int]) -> np.ndarray | None:
        if self.resampled is None:
            return None
        return np.stack([self.resampled[seed] for seed in seeds])


def interval(values: Sequence[float], resampled: np.ndarray | None, images: int) -> Estimate:
    """Returns the mean of one value per seed, with its interval.

    Args:
        values: the value of each seed.
        resampled: `[seeds, resamples]`, the values on resamples of the images, or `None` if only
            the seeds are known.
        images: number of images that were resampled.
    """
    seeds = len(values)
    value = float(np.mean(values))
    of_seeds = float(np.var(values, ddof=1)) / seeds if seeds > 1 else 0.0
    of_images = of_both = 0.0
    if resampled is not None:
        of_images = float(np.var(resampled.mean(axis=0), ddof=1))
        if seeds > 1:
            each = float(np.var(resampled, axis=1, ddof=1).mean())
            of_both = max(0.0, each - of_images) / (seeds - 1)
        # One image more that only one of two norms gets wrong, so that an agreement on few errors
        # does not look certain (Agresti and Min, Statistics in Medicine 24(5),
        # 2005).
        of_images += 1 / images**2
    elif seeds == 1:
        return Estimate(value, None, None)
    variance = max(of_seeds, of_images, of_seeds + of_images - of_both)
    freedom = variance**2 / (of_seeds**2 / (seeds - 1)) if of_seeds else math.inf
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)


def names_images(run: Mapping[str, Any]) -> bool:
    """Whether a run has the mistakes on each image in each of its final epochs."""
    epochs = min(FINAL_EPOCHS, len(run["history"]["val_error"]))
    return len(run.get(mistakes.of_run(run).key, ())) == epochs


def resampled_errors(runs: Sequence[Mapping[str, Any]], images: int) -> list[np.ndarray | None]:
    """Returns the errors of runs on resamples of the validation images.

    Args:
        runs: the results of the runs, each with a text of `mistakes` per final epoch.
        images: number of validation images.

    Returns:
        For each run `[RESAMPLES]`, or `None` if it does not have the mistakes on each image. As the
        error of a run, each is the median over the final epochs.
    """
    kinds = [mistakes.of_run(run) if names_images(run) else None for run in runs]
    epochs = [
        [] if kind is None else [kind.decode(text, images) for text in run[kind.key]]
        for run, kind in zip(runs, kinds, strict=True)
    ]
    columns = [epoch for of_run in epochs for epoch in of_run]
    if not columns:
        return [None] * len(runs)
    sums = _resample(np.concatenate(columns, axis=1))
    resampled: list[np.ndarray | None] = []
    start = 0
    for kind, of_run in zip(kinds, epochs, strict=True):
        if kind is None:
            resampled.append(None)
            continue
        rates = []
        for epoch in of_run:
            rates.append(kind.error(sums[:, start : start + epoch.shape[1]], images))
            start += epoch.shape[1]
        resampled.append(np.median(rates, axis=0))
    return resampled


def _resample(columns: np.ndarray) -> np.ndarray:
    """Returns the sums over resamples of the images, `[RESAMPLES, columns]`.

    Args:
        columns: `[images, columns]`.
    """
    images = len(columns)
    values = columns.astype(np.float32)
    generator = np.random.default_rng(0)
    parts = []
    for start in range(0, RESAMPLES, _BLOCK):
        drawn = generator.integers(images, size=(min(_BLOCK, RESAMPLES - start), images))
        counts = np.stack([np.bincount(row, minlength=images) for row in drawn])
        parts.append(counts.astype(np.float32) @ values)
    return np.concatenate(parts)
