"""The plots of the report."""

from __future__ import annotations

import collections
import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from . import memory, tables
from .accuracy import OURS
from .cases import COPIES, MEMORY_DTYPES, Step
from .results import Results
from .sections import PASSES

#: Color (Okabe and Ito's color-blind safe palette), marker and label of each contender.
STYLES = {
    "kernel": ("#009E73", "o", "kernel (ours)"),
    "op": ("#0072B2", "s", "op in TensorFlow (ours)"),
    "op jit": ("#003050", "*", "op, jit (ours)"),
    "floor": ("#777777", "|", "floor: TensorFlow's ReLU"),
    "fused bn": ("#CC79A7", "D", "fused BN"),
    "torch": ("#D55E00", "^", "PyTorch"),
    "keras jit": ("#F0E442", "P", "Keras, jit"),
    "keras": ("#E69F00", "v", "Keras"),
    "flax": ("#56B4E9", "X", "Flax"),
}


#: The same for the normalizations of the section `memory`.
NORM_STYLES = {
    "bn": ("#CC79A7", "D", "BN"),
    "gn+ws": ("#E69F00", "v", "Keras GN + WS"),
    "ours": ("#0072B2", "s", "ours GN + WS"),
    "saving": ("#009E73", "o", "ours GN + WS, save_memory"),
}
MEMORY_NETWORK = "resnet50v2"


def draw(results: Results) -> dict[str, Figure]:
    """Returns the figures of all measured sections by name."""
    figures = {}
    if tables.has(results, "ladder"):
        figures = {"ladder": ladder(results), "roofline": roofline(results)}
    if results.accuracy:
        figures["accuracy"] = accuracy(results)
    if any(case.network == MEMORY_NETWORK for case in results.memory):
        figures["memory"] = peak_memory(results)
    return figures


def _contenders(results: Results) -> list[str]:
    measured = {entry.contender for section, entry in results.times if section == "ladder"}
    return [name for name in STYLES if name in measured]


def ladder(results: Results) -> Figure:
    """Bars: the time over the memory bound, for each shape of the ladder."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    contenders = _contenders(results)
    width = 0.84 / len(contenders)
    for axes, backward in zip(figure.subplots(2, 1), PASSES, strict=True):
        cases = tables.of_pass(results, "ladder", backward)
        for i, contender in enumerate(contenders):
            ratios = [
                (results.ns("ladder", contender, case) or math.nan)
                / results.bound_ns("ladder", case)
                for case in cases
            ]
            shift = (i - (len(contenders) - 1) / 2) * width
            places = [place + shift for place in range(len(cases))]
            color, _, label = STYLES[contender]
            axes.bar(places, ratios, width, color=color, label=label, edgecolor="white", lw=0.4)
        limit = tables.KERNEL_LIMITS[backward]
        axes.axhline(limit, color="black", lw=1, ls="--", label="target of the kernel")
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.8)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.01)
        axes.set_xticks(range(len(cases)), [tables.shape_text(case) for case in cases])
        axes.tick_params("x", length=0)
        axes.set_title(tables.PASS[backward], loc="left")
        axes.set_ylabel("time / memory bound")
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def roofline(results: Results) -> Figure:
    """Points: the unavoidable memory traffic per time, compared with a copy's."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    for axes, backward in zip(figure.subplots(1, 2, sharey=True), PASSES, strict=True):
        cases = sorted(tables.of_pass(results, "ladder", backward), key=lambda case: -case.nbytes)
        for place, case in enumerate(cases):
            copies = [2 * case.nbytes / results.ns("ladder", c, case.copied) for c in COPIES]
            axes.plot([0, max(copies)], [place, place], color="#dddddd", lw=6, zorder=0)
            axes.plot(
                [max(copies)] * 2,
                [place - 0.32, place + 0.32],
                color="black",
                lw=2,
                label="copy" if place == 0 else None,
            )
        for contender in _contenders(results):
            color, marker, label = STYLES[contender]
            rates = [
                2 * case.nbytes * case.traffic / (results.ns("ladder", contender, case) or math.nan)
                for case in cases
            ]
            width = 3 if marker == "|" else 1
            axes.plot(rates, range(len(cases)), marker, color=color, ms=8, mew=width, label=label)
        axes.set_yticks(
            range(len(cases)),
            [f"{tables.shape_text(case)}\n{case.nbytes / 1e6:.3g} MB" for case in cases],
        )
        axes.set_xlim(left=0)
        axes.set_xlabel("GB/s of unavoidable traffic")
        axes.set_title(tables.PASS[backward], loc="left")
        axes.grid(axis="x", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def accuracy(results: Results) -> Figure:
    """Lines: the largest error of y against the mean of x, for each shape and dtype."""
    panels = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in results.accuracy:
        panels[row.shape, row.dtype][row.contender].append(row)
    shapes = list(dict.fromkeys(shape for shape, _ in panels))
    dtypes = list(dict.fromkeys(dtype for _, dtype in panels))
    figure = Figure(figsize=(11, 3.2 * len(shapes) + 0.6), layout="constrained")
    grid = figure.subplots(len(shapes), len(dtypes), sharex=True, sharey="col", squeeze=False)
    handles = {}
    for i, shape in enumerate(shapes):
        for j, dtype in enumerate(dtypes):
            _accuracy_panel(grid[i][j], panels[shape, dtype], handles)
            grid[i][j].set_title(f"{'x'.join(map(str, shape))}, {dtype}", fontsize="medium")
        grid[i][0].set_ylabel("largest error of y")
    for axes in grid[-1]:
        axes.set_xlabel("mean of x (deviation 1)")
    figure.legend(
        handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False
    )
    return figure


def peak_memory(results: Results) -> Figure:
    """Lines: the peak memory of the step against the batch, for each dtype and way to run it."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, dtype in zip(grid, MEMORY_DTYPES, strict=True):
        for axes, jit in zip(row, (False, True), strict=True):
            for norm, (color, marker, label) in NORM_STYLES.items():
                step = Step(norm, jit=jit, network=MEMORY_NETWORK, dtype=dtype)
                by_batch = memory.peaks(results, step)
                mib = [peak / memory.MIB for peak in by_batch.values()]
                axes.plot(list(by_batch), mib, marker=marker, color=color, label=label)
            axes.set_title(dtype + ", jit" * jit, loc="left")
            axes.grid(alpha=0.3)
        row[0].set_ylabel("peak memory, MiB")
    # Last: a limit ends the scaling of the shared axes to what is drawn.
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    for axes in grid[-1]:
        axes.set_xlabel("batch")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _accuracy_panel(axes, rows: dict, handles: dict):
    for contender, (color, marker, label) in STYLES.items():
        # Kernel and op coincide. Different sizes, drawn last, keep both visible.
        if found := rows.get(contender):
            (handles[label],) = axes.plot(
                range(len(found)),
                [max(row.error, 1e-9) for row in found],
                marker=marker,
                color=color,
                ms=9 if contender == "kernel" else 5,
                zorder=3 if contender in OURS else 2,
            )
    means = [row.mean for row in next(iter(rows.values()))]
    bound = [row.bound for row in next(iter(rows.values()))]
    (handles["our bound"],) = axes.plot(range(len(means)), bound, "--", color="black", lw=1)
    axes.set_xticks(range(len(means)), [f"{mean:g}" for mean in means])
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
