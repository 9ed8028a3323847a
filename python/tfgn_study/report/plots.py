"""The plots of a report."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ..norms import NORMS, Variant, norm_of, variants
from .names import LABELS, label, reference_of
from .verdict import is_clear

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

#: In inches: the text of a figure stays readable on the width of a phone.
WIDTH = 4.8
LEGEND_COLUMNS = 3


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot of a report.

    Attributes:
        name: name of its file, without the suffix.
        caption: what it shows.
        draw: draws it, given the result of `summary.summarize`.
    """

    name: str
    caption: str
    draw: Callable[[dict[str, Any]], Figure]


def chosen(options: Mapping[str, Any]) -> list[Plot]:
    """Returns the plots that the report of a study has, the first of which shows the answer.

    Args:
        options: the options of the study.
    """
    norms = options["norms"]
    below = f"; below, the difference to {label(reference_of(norms))}" if len(norms) > 1 else ""
    error = Plot("error_vs_batch", f"validation error by batch size{below}", plot_error)
    groups = Plot("error_vs_groups", "validation error by groups", plot_groups)
    plots = [error] if len(options["batch_sizes"]) > 1 else []
    if any(":" in norm for norm in norms):
        plots.append(groups)
    return [*(plots or [error]), Plot("curves", "training curves", plot_curves)]


def style(norm: str, norms: list[str]) -> dict[str, Any]:
    """Returns the color and the marker of a norm; variants of a norm differ in their color."""
    color: Any
    color, marker = STYLES[norm_of(norm)]
    kin = [other for other in norms if ":" in other and norm_of(other) == norm_of(norm)]
    if norm in kin:
        color = colormaps["viridis"](kin.index(norm) / max(1, len(kin) - 1))
    return {"color": color, "marker": marker}


def _bars(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the errors in percent with their intervals, as `errorbar` takes them."""
    ends = [cell["interval"] or [cell["error"]] * 2 for cell in cells]
    return _with_ends([(cell["error"], *end) for cell, end in zip(cells, ends, strict=True)])


def _with_ends(values: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Returns values with the ends of their intervals in percent, as `errorbar` takes them."""
    y = [100 * value for value, _, _ in values]
    below = [100 * (value - low) for value, low, _ in values]
    above = [100 * (high - value) for value, _, high in values]
    return {"y": y, "yerr": [below, above], "capsize": 2}


def plot_error(summary: dict[str, Any]) -> Figure:
    """Plots the errors against the batch size, and below them the differences to the reference.

    Args:
        summary: the result of `summary.summarize`.

    Returns:
        The figure, with both panels for each model. Bars are intervals of 95% confidence; the
        marker of a difference is filled if it is clear. A single norm has no panel of differences.
    """
    options = summary["options"]
    models, norms = options["models"], options["norms"]
    compared = [norm for norm in norms if norm != summary["reference"]]
    rows = [
        (model, kind)
        for model in models
        for kind in (("error", "difference") if compared else ("error",))
    ]
    legend_rows = math.ceil(len(norms) / LEGEND_COLUMNS)
    figure = Figure(
        figsize=(WIDTH, 2.5 * len(rows) + 0.4 + 0.2 * legend_rows), layout="constrained"
    )
    panels = figure.subplots(len(rows), 1, squeeze=False).flat
    for (model, kind), axes in zip(rows, panels, strict=True):
        draw = _draw_errors if kind == "error" else _draw_differences
        draw(axes, [cell for cell in summary["cells"] if cell["model"] == model], summary)
        sizes = sorted({cell["batch_size"] for cell in summary["cells"]})
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_xlim(-0.5, len(sizes) - 0.5)
        if kind == "error" and len(models) > 1:
            axes.set_title(model)
        axes.grid(alpha=0.3)
    figure.axes[-1].set_xlabel("batch size (images per training step)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), **_legend(len(norms)))
    return figure


def _draw_errors(axes: Axes, cells: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    norms = summary["options"]["norms"]
    for norm in norms:
        of_norm = [cell for cell in cells if cell["norm"] == norm]
        look = style(norm, norms) | {"markersize": 5, "linewidth": 1}
        axes.errorbar(_places(of_norm, norm, norms), **_bars(of_norm), **look, label=label(norm))
    scale = _error_axis(axes, [cell["error"] for cell in cells], _ends(cells))
    axes.set_ylabel(f"validation error in %{scale}")


def _draw_differences(axes: Axes, cells: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    norms = summary["options"]["norms"]
    reference = label(summary["reference"])
    axes.axhline(0, color=style(summary["reference"], norms)["color"], linewidth=1)
    ends = []
    for norm in norms:
        of_norm = [c for c in cells if c["norm"] == norm and c["difference"] is not None]
        look = style(norm, norms) | {"markersize": 5, "linewidth": 1, "linestyle": "none"}
        for place, cell in zip(_places(of_norm, norm, norms), of_norm, strict=True):
            value, low, high = (cell["difference"][key] for key in ("value", "low", "high"))
            low, high = (value, value) if low is None else (low, high)
            ends += [100 * low, 100 * high]
            filled = look if is_clear(cell["difference"]) else look | {"markerfacecolor": "white"}
            axes.errorbar([place], **_with_ends([(value, low, high)]), **filled)
    scale = _difference_axis(axes, ends)
    better = "fewer errors" if summary["options"]["task"] == "classification" else "a lower error"
    axes.set_ylabel(f"difference to {reference}\nin points{scale}")
    axes.set_title(f"below 0: {better} than {reference}; filled: beyond chance", fontsize="small")


def _places(cells: list[dict[str, Any]], norm: str, norms: list[str]) -> list[float]:
    """Returns where the cells of a norm lie: side by side, so that no interval hides another."""
    sizes = sorted({cell["batch_size"] for cell in cells})
    shift = 0.5 * ((norms.index(norm) + 0.5) / len(norms) - 0.5)
    return [sizes.index(cell["batch_size"]) + shift for cell in cells]


def _legend(entries: int) -> dict[str, Any]:
    columns = min(LEGEND_COLUMNS, entries)
    return {"loc": "outside upper center", "ncols": columns, "fontsize": "small", "frameon": False}


def plot_groups(summary: dict[str, Any]) -> Figure:
    """Plots the validation error against the number of groups and the channels per group.

    Args:
        summary: the result of `summary.summarize`.

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
        (field, text)
        for field, text in panels
        if any(":" in norm and getattr(v, field) for norm, v in variant_of.items())
    ]
    figure = Figure(figsize=(WIDTH, 0.4 + 3 * len(panels)), layout="constrained")
    axes_of = figure.subplots(len(panels), 1, squeeze=False).flat
    cells = summary["cells"]
    errors = [cell["error"] for cell in cells]
    ends = _ends(cells)
    for (field, text), axes in zip(panels, axes_of, strict=True):
        ticks: set[int] = set()
        dashes = itertools.cycle(["-", "--", ":", "-."])
        lines = _by_count(summary, variant_of, field)
        for (model, batch_size, norm), of_line in lines.items():
            counts = [getattr(variant_of[cell["norm"]], field) for cell in of_line]
            ticks.update(counts)
            color, marker = STYLES[norm]
            line = f"{LABELS[norm]}, {model}, batch {batch_size}"
            look = {"color": color, "marker": marker, "linestyle": next(dashes), "label": line}
            axes.errorbar(counts, **_bars(of_line), **look)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(ticks), [str(count) for count in sorted(ticks)])
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.set_xlabel(text)
        axes.set_ylabel(f"validation error in %{_error_axis(axes, errors, ends)}")
    figure.axes[0].legend(fontsize="small")
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
        summary: the result of `summary.summarize`.

    Returns:
        The figure, with a panel per model and batch size.
    """
    options = summary["options"]
    models = options["models"]
    parts = [(m, size) for m in models for size in sorted(options["batch_sizes"])]
    columns = min(2, len(parts))
    rows = math.ceil(len(parts) / columns)
    legend_rows = math.ceil(len(options["norms"]) / LEGEND_COLUMNS)
    size = (WIDTH, 2.3 * rows + 0.6 + 0.2 * legend_rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    errors, of_training = (
        [error for run in summary["runs"] for error in run["history"][key]]
        for key in ("val_error", "train_error")
    )
    handles = {}
    for (model, batch_size), axes in zip(parts, panels, strict=False):
        for run in summary["runs"]:
            if (run["config"]["model"], run["config"]["batch_size"]) == (model, batch_size):
                handles[run["norm"]] = _plot_run(axes, run, style(run["norm"], options["norms"]))
        axes.set_title((f"{model}, " if len(models) > 1 else "") + f"batch {batch_size}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        scale = _error_axis(axes, errors, of_training)
    for axes in panels:
        axes.set_visible(False)
    figure.supylabel(f"error in %{scale}", fontsize="medium")
    figure.legend(
        handles.values(),
        map(label, handles),
        **_legend(len(handles)),
        title="solid: validation; dashed: training",
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


def _ends(cells: list[dict[str, Any]]) -> list[float]:
    return [end for cell in cells for end in (cell["interval"] or [])]


def _error_axis(axes: Axes, errors: list[float], ends: Sequence[float] = ()) -> str:
    """Shows errors in [0, 1] in percent, on a logarithmic axis if they differ a lot.

    Args:
        axes: the panel.
        errors: the errors.
        ends: the ends of their intervals, or what else is to be seen.

    Returns:
        What the label of the axis has to add.
    """
    smallest, largest = 100 * min(errors), 100 * max([*errors, *ends])
    axes.grid(alpha=0.3)
    if smallest > 0 and largest / smallest > LOG_SCALE_RATIO:
        # They may reach to 0, which a logarithmic axis does not have.
        bottom = max(100 * min([*errors, *ends]), smallest / 3)
        axes.set_yscale("log")
        axes.set_ylim(bottom / 1.2, min(100, largest * 1.2))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
        return ", log scale"
    axes.set_ylim(0, min(100, largest * 1.2) or 1)
    return ""


def _difference_axis(axes: Axes, ends: list[float]) -> str:
    """Scales the axis of differences; returns what its label has to add."""
    reach = sorted(map(abs, ends))
    largest, middle = reach[-1], reach[len(reach) // 2]
    axes.set_ylim(-1.3 * max(1, -min(ends)), 1.3 * max(1, *ends))
    if middle == 0 or largest / middle <= LOG_SCALE_RATIO:
        return ""
    axes.set_yscale("symlog", linthresh=middle)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return f",\nlog scale beyond {middle:.1g}"
