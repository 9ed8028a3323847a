"""What the report says of the runs, as numbers: the content of `results.json`."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from ..config import Study
from ..data.dataset import Dataset
from .names import reference_of
from .uncertainty import Errors, Estimate, resampled_errors


def summarize(
    study: Study,
    dataset: Dataset,
    environment: dict[str, Any],
    results: list[dict[str, Any]],
    tuning: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Groups the runs by model, norm and batch size, and compares the norms.

    Args:
        study: the options.
        dataset: the images.
        environment: the software and the machine; see `environment.collect`.
        results: the results of all runs.
        tuning: how the learning rates were chosen, as `tuning.summarize` returns it, or `None`.

    Returns:
        `options`, `dataset`, `environment`, `runs` (the results, each with its `norm` as spelled
        in the options), `reference` (the norm to which the others are compared) and `cells`: for
        each model, norm and batch size the mean `error` over the seeds, its `interval` of 95%
        confidence (two numbers, or `None` if it is not known), `error_min`, `error_max`,
        `difference` (the mean `value` by which the error exceeds that of the reference, with the
        ends `low` and `high` of its interval, or `None`; the reference itself has no difference),
        `diverged` (number of runs), and the means of `step_ms`, `peak_mib` and `increase_mib` (peak
        minus baseline). `tuning` if it is given.
    """
    resampled = resampled_errors(results, dataset.val)
    reference = reference_of(study.norms)
    cells: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for model in study.models:
        errors: dict[tuple[str, int], Errors] = {}
        for norm, variant in study.variants().items():
            for batch_size in sorted(study.batch_sizes):
                key = {"model": model, "batch_size": batch_size, **dataclasses.asdict(variant)}
                indices = [i for i, x in enumerate(results) if key.items() <= x["config"].items()]
                of_cell = [{"norm": norm, **results[i]} for i in indices]
                runs += of_cell
                of_seeds = Errors.of(of_cell, [resampled[i] for i in indices], dataset.val)
                errors[norm, batch_size] = of_seeds
                head = {"model": model, "norm": norm, "batch_size": batch_size}
                cells.append(head | _cell(of_cell, of_seeds.mean()))
        for cell in cells[-len(errors) :]:
            norm, batch_size = cell["norm"], cell["batch_size"]
            compared = errors[norm, batch_size].minus(errors[reference, batch_size])
            cell["difference"] = None if norm == reference else dataclasses.asdict(compared)
    content = {
        "options": options_of(study),
        "dataset": dataclasses.asdict(dataset) | {"path": dataset.path.name},
        "environment": environment,
        "reference": reference,
        "cells": cells,
        "runs": runs,
    }
    if tuning is not None:
        content["tuning"] = tuning
    # Tuples become lists, as in the file.
    return json.loads(json.dumps(content, allow_nan=False))


def options_of(study: Study) -> dict[str, Any]:
    """Returns the options as `results.json` has them."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(study).items()
    }


def _cell(runs: list[dict[str, Any]], mean: Estimate) -> dict[str, Any]:
    errors = [run["error"] for run in runs]
    steps = [run["step_ms"] for run in runs if run["step_ms"] is not None]
    return {
        "error": mean.value,
        "interval": None if mean.low is None else [mean.low, mean.high],
        "error_min": min(errors),
        "error_max": max(errors),
        "diverged": sum(run["diverged"] for run in runs),
        "step_ms": statistics.fmean(steps) if steps else None,
        "peak_mib": statistics.fmean(run["peak_mib"] for run in runs),
        "increase_mib": statistics.fmean(run["peak_mib"] - run["baseline_mib"] for run in runs),
    }
