"""The learning rate of each model, norm and batch size, chosen on held-out training images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from .config import RunConfig, Study
from .norms import Variant

#: The runs that differ in nothing but their seeds and learning rates: model, norm, batch size.
Cell: TypeAlias = tuple[str, Variant, int]


def cell_of(run: RunConfig) -> Cell:
    """Returns the cell of a run."""
    return run.model, run.variant, run.batch_size


def best(results: Mapping[RunConfig, dict[str, Any]]) -> dict[Cell, float]:
    """Returns the best learning rate of each cell.

    That is the rate with the lowest error on the held-out images; among equals, the one with the
    lowest loss in the last epoch. Runs that diverged come last. Norms that share a training share
    its rate, the one with the lowest mean of their errors.

    Args:
        results: the results of the trials.
    """
    trained: dict[Cell, dict[float, list[dict[str, Any]]]] = {}
    for run, result in results.items():
        rates = trained.setdefault(_trained_as(run), {})
        rates.setdefault(run.learning_rate, []).append(result)
    chosen = {
        cell: min((*_rank(of_rate), rate) for rate, of_rate in rates.items())[-1]
        for cell, rates in trained.items()
    }
    return {cell_of(run): chosen[_trained_as(run)] for run in results}


def summarize(study: Study, results: Mapping[RunConfig, dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the `tuning` of `results.json`.

    Args:
        study: the options.
        results: the results of the trials.

    Returns:
        For each cell its `model`, `norm` (as spelled in the options), `batch_size`, the
        `learning_rate` that was chosen, whether this is at an `edge` of the grid, and the `trials`
        in the order of their rates: `learning_rate`, `error` and `loss` on the held-out images
        (`None` for NaN), `diverged`.
    """
    chosen, cells = best(results), _by_cell(results)
    summary = []
    for model in study.models:
        for norm, variant in study.variants().items():
            for batch_size in sorted(study.batch_sizes):
                cell = (model, variant, batch_size)
                trials = sorted(cells[cell], key=lambda run: run.learning_rate)
                rates = [run.learning_rate for run in trials]
                summary.append(
                    {
                        "model": model,
                        "norm": norm,
                        "batch_size": batch_size,
                        "learning_rate": chosen[cell],
                        "edge": chosen[cell] in (rates[0], rates[-1]),
                        "trials": [
                            {
                                "learning_rate": run.learning_rate,
                                "error": results[run]["error"],
                                "loss": results[run]["history"]["val_loss"][-1],
                                "diverged": results[run]["diverged"],
                            }
                            for run in trials
                        ],
                    }
                )
    return summary


def _by_cell(runs: Iterable[RunConfig]) -> dict[Cell, list[RunConfig]]:
    cells: dict[Cell, list[RunConfig]] = {}
    for run in runs:
        cells.setdefault(cell_of(run), []).append(run)
    return cells


def _trained_as(run: RunConfig) -> Cell:
    return cell_of(run.twin or run)


def _rank(results: list[dict[str, Any]]) -> tuple[bool, float, float]:
    """Returns what is lowest for the best results of a training."""
    losses = [result["history"]["val_loss"][-1] for result in results]
    return (
        any(result["diverged"] for result in results),
        statistics.fmean(result["error"] for result in results),
        statistics.fmean(math.inf if loss is None else loss for loss in losses),
    )
