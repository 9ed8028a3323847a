"""The plots of a report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ..norms import NORMS, Variant, norm_of, variants

#: Colors of Okabe and Ito, which color-blind readers can tell apart, and markers. Kin share a
#: color.
STYLES = {
    "bn": ("#0072B2", "s"),
    "bn+precise": ("#0072B2", "*"),
    "bn+renorm": ("#0072B2", "<"),
    "bn+frozen": ("#0072B2", "d"),
    "bn+accumulate": ("#0072B2", "h"),
    "ln": ("#E69F00", "v"),
    "in": ("#CC79A7", "D"),
    "gn": ("#D55E00", "o"),
    "gn+ws": ("#009E73", "^"),
    "gn+pn": ("#D55E00", "p"),
    "bcn+ws": ("#009E73", ">"),
    "frn": ("#E69F00", "8"),
    "evonorm-s0": ("#CC79A7", "H"),
    "ws": ("#56B4E9", "P"),
    "nf": ("#56B4E9", "."),
    "none": ("#000000", "X"),
}

#: Above this ratio of the largest to the smallest error, a linear axis hides the small ones.
LOG_SCALE_RATIO = 8


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot of a report.

    Attributes:
        name: name of its file, without the suffix.
        caption: what it shows.
        draw: draws it, given the result of `report.summarize`.
    """

    name: str
    caption: str
    draw: Callable[[dict[str, Any]], Figure]


def chosen(options: Mapping[str, Any]) -> list[Plot]:
    """Returns the plots that the report of a study has.

    Args:
        options: the options of the study.
    """
    plots = []
    if len(options["batch_sizes"]) > 1:
        plots.append(Plot("error_vs_batch", "validation error against batch size", plot_error))
    if any(":" in norm for norm in options["norms"]):
        plots.append(Plot("error_vs_groups", "validation error against groups", plot_groups))
    if not plots:
        plots.append(Plot("error_vs_batch", "validation error", plot_error))
    return [*plots, Plot("curves", "training curves", plot_curves)]


def style(norm: str, norms: list[str]) -> dict[str, Any]:
    """Returns the color and the marker of a norm; variants of a norm differ in their color."""
    color: Any
    color, marker = STYLES[norm_of(norm)]
    kin = [other for other in norms if ":" in other and norm_of(other) == norm_of(norm)]
    if norm in kin:
        color = colormaps["viridis"](kin.index(norm) / max(1, len(kin) - 1))
    return {"color": color, "marker": marker}


def _bars(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the errors in percent with the spread over the seeds, as `errorbar` takes them."""
    errors = [100 * cell["error"] for cell in cells]
    spread = [
        [y - 100 * cell["error_min"] for y, cell in zip(errors, cells, strict=True)],
        [100 * cell["error_max"] - y for y, cell in zip(errors, cells, strict=True)],
    ]
    several = any(cell["error_min"] < cell["error_max"] for cell in cells)
    return {"y": errors, "yerr": spread if several else None, "capsize": 3}


def plot_error(summary: dict[str, Any]) -> Figure:
    """Plots the validation error against the batch size, as in figure 1 of the GroupNorm paper.

    Args:
        summary: the result of `report.summarize`.

    Returns:
        The figure, with a panel per model; bars reach from the smallest to the largest error over
        the seeds.
    """
    options = summary["options"]
    models = options["models"]
    figure = Figure(figsize=(0.6 + 5.8 * len(models), 4.4), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False).flat
    for model, axes in zip(models, panels, strict=True):
        for norm in options["norms"]:
            cells = [c for c in summary["cells"] if (c["model"], c["norm"]) == (model, norm)]
            axes.errorbar(
                [cell["batch_size"] for cell in cells],
                **_bars(cells),
                **style(norm, options["norms"]),
                label=norm,
            )
        batch_sizes = sorted({cell["batch_size"] for cell in summary["cells"]})
        axes.set_xscale("log", base=2)
        axes.set_xticks(batch_sizes, [str(size) for size in batch_sizes])
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.set_xlabel("batch size (images per training step)")
        _error_axis(axes, [cell[k] for cell in summary["cells"] for k in ("error", "error_max")])
        axes.set_title(f"{model}, {summary['dataset']['name']}")
    figure.axes[0].set_ylabel("validation error in %")
    figure.axes[0].legend()
    return figure


def plot_groups(summary: dict[str, Any]) -> Figure:
    """Plots the validation error against the number of groups and the channels per group.

    Args:
        summary: the result of `report.summarize`.

    Returns:
        The figure, with a panel for each of the two that occurs among the norms.
    """
    options = summary["options"]
    variant_of = variants(options["norms"], options["groups"], options["group_size"])
    panels = [
        ("groups", "groups (1: layer normalization)"),
        ("group_size", "channels per group (1: instance normalization)"),
    ]
    panels = [
        (field, label)
        for field, label in panels
        if any(":" in norm and getattr(v, field) for norm, v in variant_of.items())
    ]
    figure = Figure(figsize=(0.6 + 4.6 * len(panels), 4), layout="constrained")
    axes_of = figure.subplots(1, len(panels), sharey=True, squeeze=False).flat
    errors = [cell[k] for cell in summary["cells"] for k in ("error", "error_max")]
    for (field, label), axes in zip(panels, axes_of, strict=True):
        ticks: set[int] = set()
        for (model, batch_size, norm), cells in _by_count(summary, variant_of, field).items():
            counts = [getattr(variant_of[cell["norm"]], field) for cell in cells]
            ticks.update(counts)
            color, marker = STYLES[norm]
            text = f"{norm}, {model}, batch {batch_size}"
            axes.errorbar(counts, **_bars(cells), color=color, marker=marker, label=text)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(ticks), [str(count) for count in sorted(ticks)])
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.set_xlabel(label)
        _error_axis(axes, errors)
    figure.axes[0].set_ylabel("validation error in %")
    figure.axes[0].legend()
    return figure


def _by_count(
    summary: dict[str, Any], variant_of: dict[str, Variant], field: str
) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
    """Returns the cells of each line of a panel of `plot_groups`, in descending order."""
    lines: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for cell in summary["cells"]:
        variant = variant_of[cell["norm"]]
        if NORMS[variant.norm].takes_groups and getattr(variant, field):
            key = (cell["model"], cell["batch_size"], variant.norm)
            lines.setdefault(key, []).append(cell)
    for cells in lines.values():
        cells.sort(key=lambda cell: -getattr(variant_of[cell["norm"]], field))
    return lines


def plot_curves(summary: dict[str, Any]) -> Figure:
    """Plots the validation error (solid) and the training error (dashed) of each run by epoch.

    Args:
        summary: the result of `report.summarize`.

    Returns:
        The figure, with a panel per model and batch size.
    """
    options = summary["options"]
    models = options["models"]
    parts = [(m, size) for m in models for size in sorted(options["batch_sizes"], reverse=True)]
    columns = 2 if len(parts) in (2, 4) else min(3, len(parts))
    rows = math.ceil(len(parts) / columns)
    # Wide enough for three entries of the legend side by side.
    width = max(5.5, 4 * columns)
    legend_rows = math.ceil(len(options["norms"]) / int(width / 1.7))
    size = (width, 3.2 * rows + 0.4 + 0.22 * legend_rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    errors = [error for run in summary["runs"] for error in run["history"]["val_error"]]
    handles = {}
    for (model, batch_size), axes in zip(parts, panels, strict=False):
        for run in summary["runs"]:
            if (run["config"]["model"], run["config"]["batch_size"]) == (model, batch_size):
                handles[run["norm"]] = _plot_run(axes, run, style(run["norm"], options["norms"]))
        axes.set_title((f"{model}, " if len(models) > 1 else "") + f"batch {batch_size}")
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
        ncols=min(int(width / 1.7), len(handles)),
        title="validation error; dashed: training error",
    )
    return figure


def _plot_run(axes: Axes, run: dict[str, Any], look: dict[str, Any]) -> Line2D:
    """Plots both curves of a run; returns the line of the validation error."""
    history = run["history"]
    epochs = range(1, len(history["val_error"]) + 1)
    train = [100 * error for error in history["train_error"]]
    axes.plot(epochs, train, color=look["color"], linestyle="--", linewidth=0.8)
    val = [100 * error for error in history["val_error"]]
    return axes.plot(epochs, val, **look, markersize=4, linewidth=1)[0]


def _error_axis(axes: Axes, errors: list[float]) -> None:
    """Shows errors in [0, 1] in percent, on a logarithmic axis if they differ a lot."""
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
