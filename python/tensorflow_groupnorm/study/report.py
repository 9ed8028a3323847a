"""The answer of a study: tables and plots, from the results of its runs."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from rich.console import Console
from rich.table import Table

from .config import (
    FINAL_EPOCHS,
    NORMS,
    REFERENCE_BATCH_SIZE,
    Study,
)
from .data import Dataset
from .files import atomic

#: Colors of Okabe and Ito, which color-blind readers can tell apart, and markers for everybody.
STYLES = {
    "bn": ("#0072B2", "s"),
    "ln": ("#E69F00", "v"),
    "in": ("#CC79A7", "D"),
    "gn": ("#D55E00", "o"),
    "ws": ("#56B4E9", "P"),
    "gn+ws": ("#009E73", "^"),
    "none": ("#000000", "X"),
}

#: From this ratio of the largest to the smallest error on, a linear axis hides the small ones.
LOG_SCALE_RATIO = 8


def write(
    study: Study, dataset: Dataset, environment: dict, results: list[dict], console: Console
) -> dict:
    """Writes `report.md`, `results.json`, `error_vs_batch.png` and `curves.png` to `study.out`.

    Args:
        study: the options.
        dataset: the images.
        environment: what trained the networks.
        results: of every run, as the worker returns them, each with its `config`.
        console: where the table is printed.

    Returns:
        The content of `results.json`.
    """
    summary = summarize(study, dataset, environment, results)
    with atomic(study.out / "results.json") as file:
        file.write(json.dumps(summary, indent=1, allow_nan=False).encode())
    with atomic(study.out / "report.md") as file:
        file.write(markdown(summary).encode())
    for name, figure in (
        ("error_vs_batch", plot_error(summary)),
        ("curves", plot_curves(summary)),
    ):
        with atomic(study.out / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=150)
    console.print(_console_table(summary))
    console.print(f"Report: {study.out / 'report.md'}")
    return summary


def summarize(study: Study, dataset: Dataset, environment: dict, results: list[dict]) -> dict:
    """Gathers the runs of each norm and batch size.

    Args:
        study: the options.
        dataset: the images.
        environment: what trained the networks.
        results: of every run.

    Returns:
        `options`, `dataset`, `environment`, `runs` (the results) and `cells`: for each norm and
        batch size the mean `error` over the seeds, `error_min`, `error_max`, `diverged` (runs), and
        the means of `step_ms`, `peak_mib` and `increase_mib` (peak above the baseline).
    """
    cells = []
    for norm in study.norms:
        for batch_size in sorted(study.batch_sizes):
            runs = [
                run
                for run in results
                if (run["config"]["norm"], run["config"]["batch_size"]) == (norm, batch_size)
            ]
            errors = [run["error"] for run in runs]
            steps = [run["step_ms"] for run in runs if run["step_ms"] is not None]
            cells.append(
                {
                    "norm": norm,
                    "batch_size": batch_size,
                    "error": statistics.fmean(errors),
                    "error_min": min(errors),
                    "error_max": max(errors),
                    "diverged": sum(run["diverged"] for run in runs),
                    "step_ms": statistics.fmean(steps) if steps else None,
                    "peak_mib": statistics.fmean(run["peak_mib"] for run in runs),
                    "increase_mib": statistics.fmean(
                        run["peak_mib"] - run["baseline_mib"] for run in runs
                    ),
                }
            )
    options = dataclasses.asdict(study) | {
        "data": None if study.data is None else str(study.data),
        "out": str(study.out),
    }
    images = dataclasses.asdict(dataset) | {"path": dataset.path.name}
    return {
        "options": options,
        "dataset": images,
        "environment": environment,
        "cells": cells,
        "runs": results,
    }


def markdown(summary: dict) -> str:
    """Returns the report in Markdown.

    Args:
        summary: of `summarize`.

    Returns:
        The text, which shows the two plots that lie beside it.
    """
    options, dataset = summary["options"], summary["dataset"]
    side = options["image_size"]
    rate = f"{options['learning_rate']:g} x batch / {REFERENCE_BATCH_SIZE}"
    groups = (
        f"{options['groups']} groups"
        if options["group_size"] is None
        else f"{options['group_size']} channels per group"
    )
    typical = statistics.median(cell["error"] for cell in summary["cells"])
    noise = math.sqrt(typical * (1 - typical) / dataset["val"])
    spread = (
        f"Means over {len(options['seeds'])} seeds, (smallest-largest) in brackets. "
        if len(options["seeds"]) > 1
        else ""
    )
    return f"""# Does GroupNorm + WS help at my batch size?

{options["model"]} on the {dataset["name"]}: {dataset["train"]} training and {dataset["val"]}
validation images of {side}x{side} pixels, {dataset["classes"]} classes, {options["epochs"]} epochs.

## Validation error in %

{_pivot(summary, _error_text, best=True)}

{spread}The lowest error of each batch size is bold. An error of {typical:.1%} on {dataset["val"]}
images has a standard error of {100 * noise:.1f} points: smaller differences are chance.

![validation error against batch size](error_vs_batch.png)

![training curves](curves.png)

## Step time in ms

{_pivot(summary, lambda cell: "-" if cell["step_ms"] is None else f"{cell['step_ms']:.1f}")}
{_shared(summary["runs"])}
## Peak memory in MiB

{_pivot(summary, lambda cell: f"{cell['peak_mib']:.0f} (+{cell['increase_mib']:.0f})")}

## How it was measured

- Validation error: the median over the final {FINAL_EPOCHS} epochs, as in the GroupNorm paper
  (arXiv 1803.08494). A run whose loss became NaN ends there ("diverged").
- Every run is the same network from the same seed in a process of its own; SGD with momentum 0.9,
  learning rate {rate} with a cosine decay to 0.
- Step time: the median over all training steps but the first of each epoch, which trace the graph
  or fill the input pipeline. Validation is not counted.
- Peak memory: the most resident memory that the run's process ever held, TensorFlow itself and the
  images included; in brackets, how far that is above what it held before the network was built.
- `gn` and `gn+ws` use {groups}.

{_definitions(options["norms"])}

## Configuration

```json
{json.dumps({"options": options, "environment": summary["environment"]}, indent=1)}
```
"""


def _shared(results: list[dict]) -> str:
    """Returns what is to be said of step times where runs were not alone on the machine."""
    workers = max(result.get("workers", 1) for result in results)
    if workers == 1:
        return ""
    return f"""
Up to {workers} runs trained at a time and shared the cores: alone, a step takes less. To compare
step times, train with `--workers 1` into another folder.
"""


def _definitions(norms: list[str]) -> str:
    return "\n".join(f"- `{norm}`: {NORMS[norm]}" for norm in norms)


def _error_text(cell: dict) -> str:
    text = f"{100 * cell['error']:.1f}"
    if cell["error_min"] < cell["error_max"]:
        text += f" ({100 * cell['error_min']:.1f}-{100 * cell['error_max']:.1f})"
    return text + (" diverged" if cell["diverged"] else "")


def _rows(summary: dict, text: Callable[[dict], str], best: bool = False) -> list[list[str]]:
    """Returns a header and a row per norm, with a column per batch size."""
    batch_sizes = sorted({cell["batch_size"] for cell in summary["cells"]})
    lowest = {
        size: min(cell["error"] for cell in summary["cells"] if cell["batch_size"] == size)
        for size in batch_sizes
    }
    rows = [["", *(f"batch {size}" for size in batch_sizes)]]
    for norm in summary["options"]["norms"]:
        cells = [cell for cell in summary["cells"] if cell["norm"] == norm]
        rows.append(
            [
                norm,
                *(
                    f"**{text(cell)}**"
                    if best and cell["error"] == lowest[cell["batch_size"]]
                    else text(cell)
                    for cell in cells
                ),
            ]
        )
    return rows


def _pivot(summary: dict, text: Callable[[dict], str], best: bool = False) -> str:
    header, *rows = _rows(summary, text, best)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _console_table(summary: dict) -> Table:
    header, *rows = _rows(summary, _error_text)
    table = Table(title="Validation error in %")
    for column in header:
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    return table


def plot_error(summary: dict) -> Figure:
    """Plots validation error against batch size, as figure 1 of the GroupNorm paper does.

    Args:
        summary: of `summarize`.

    Returns:
        The figure; bars show the smallest and the largest error over the seeds.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for norm in summary["options"]["norms"]:
        cells = [cell for cell in summary["cells"] if cell["norm"] == norm]
        errors = [100 * cell["error"] for cell in cells]
        color, marker = STYLES[norm]
        spread = [
            [y - 100 * cell["error_min"] for y, cell in zip(errors, cells, strict=True)],
            [100 * cell["error_max"] - y for y, cell in zip(errors, cells, strict=True)],
        ]
        axes.errorbar(
            [cell["batch_size"] for cell in cells],
            errors,
            yerr=spread if len(summary["options"]["seeds"]) > 1 else None,
            color=color,
            marker=marker,
            capsize=3,
            label=norm,
        )
    batch_sizes = sorted({cell["batch_size"] for cell in summary["cells"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batch_sizes, [str(size) for size in batch_sizes])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("batch size (images per training step)")
    _error_axis(axes, [cell["error"] for cell in summary["cells"]])
    axes.set_ylabel("validation error in %")
    axes.set_title(f"{summary['options']['model']}, {summary['dataset']['name']}")
    axes.legend()
    return figure


def plot_curves(summary: dict) -> Figure:
    """Plots the validation error (solid) and the training error (dashed) of every run by epoch.

    Args:
        summary: of `summarize`.

    Returns:
        The figure, with a panel per batch size.
    """
    batch_sizes = sorted(summary["options"]["batch_sizes"], reverse=True)
    columns = min(3, len(batch_sizes))
    rows = math.ceil(len(batch_sizes) / columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    errors = [error for run in summary["runs"] for error in run["history"]["val_error"]]
    handles = {}
    for batch_size, axes in zip(batch_sizes, panels, strict=False):
        for run in summary["runs"]:
            if run["config"]["batch_size"] != batch_size:
                continue
            norm, history = run["config"]["norm"], run["history"]
            epochs = range(1, len(history["val_error"]) + 1)
            color, marker = STYLES[norm]
            for part, style in (
                ("train_error", {"linestyle": "--", "linewidth": 0.8}),
                ("val_error", {"marker": marker, "markersize": 4}),
            ):
                (handles[norm],) = axes.plot(
                    epochs, [100 * error for error in history[part]], color=color, **style
                )
        axes.set_title(f"batch {batch_size}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        _error_axis(axes, errors)
    for axes in panels:
        axes.set_visible(False)
    figure.supylabel("error in %", fontsize="medium")
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=len(handles),
        title="validation error; dashed: training error",
    )
    return figure


def _error_axis(axes, errors: list[float]):
    """Shows errors in [0, 1] as percentages, on a logarithmic axis if they differ a lot."""
    smallest, largest = 100 * min(errors), 100 * max(errors)
    if smallest > 0 and largest / smallest > LOG_SCALE_RATIO:
        axes.set_yscale("log")
        axes.set_ylim(smallest / 1.5, min(100, largest * 1.5))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    else:
        axes.set_ylim(0, min(100, largest * 1.2) or 1)
    axes.grid(alpha=0.3)
