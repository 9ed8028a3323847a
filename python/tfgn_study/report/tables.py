"""The tables of a report."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from ..presets import PRESETS
from .names import label, listed
from .verdict import is_clear


def by_batch_size(
    summary: dict[str, Any],
    text: Callable[[dict[str, Any]], str],
    norms: Sequence[str] | None = None,
) -> str:
    """Returns a table with a row per norm and a column per batch size, for each model.

    Args:
        summary: the result of `summary.summarize`.
        text: returns the text of a cell.
        norms: the norms that have a row; all by default.
    """
    models = summary["options"]["models"]
    tables = []
    for model in models:
        table = _markdown(_rows(summary, model, text, norms), left=1)
        tables.append(table if len(models) == 1 else f"### {model}\n\n{table}")
    return "\n\n".join(tables)


def differences(summary: dict[str, Any]) -> str:
    """Returns the tables of the differences to the reference, which itself has no row."""
    norms = [norm for norm in summary["options"]["norms"] if norm != summary["reference"]]
    return by_batch_size(summary, difference_text, norms)


def errors_on_console(summary: dict[str, Any]) -> list[Table]:
    """Returns the tables of errors for a terminal, one per model."""
    tables = []
    for model in summary["options"]["models"]:
        header, *rows = _rows(summary, model, error_text)
        table = Table(title="Validation error in %")
        table.add_column(model)
        for column in header[1:]:
            table.add_column(column, justify="right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def error_text(cell: dict[str, Any]) -> str:
    """Returns the mean error of a cell in percent, with its range over the seeds."""
    text = f"{100 * cell['error']:.1f}"
    if cell["error_min"] < cell["error_max"]:
        text += f" ({100 * cell['error_min']:.1f}-{100 * cell['error_max']:.1f})"
    return text + (" diverged" if cell["diverged"] else "")


def difference_text(cell: dict[str, Any]) -> str:
    """Returns a difference to the reference in points, with its interval; bold if it is clear."""
    difference = cell["difference"]
    text = _points(difference["value"])
    if difference["low"] is not None:
        text += f" ({_points(difference['low'])} to {_points(difference['high'])})"
    return f"**{text}**" if is_clear(difference) else text


def _points(difference: float) -> str:
    # Plus 0.0, as -0.0 would be shown as such.
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def half_width(summary: dict[str, Any]) -> float | None:
    """Returns half the width of the median interval of the differences, in [0, 1], or `None`."""
    known = [c["difference"] for c in summary["cells"] if c["difference"] is not None]
    widths = [d["high"] - d["low"] for d in known if d["low"] is not None]
    return statistics.median(widths) / 2 if widths else None


def tuning(summary: dict[str, Any]) -> str:
    """Returns the errors of the trials of learning rates as a section, or an empty text."""
    if "tuning" not in summary:
        return ""
    cells = summary["tuning"]
    rates = sorted({trial["learning_rate"] for cell in cells for trial in cell["trials"]})
    several = len(summary["options"]["models"]) > 1
    models = ["model"] if several else []
    table = [[*models, "norm", "batch", *(f"{rate:.3g}" for rate in rates)]]
    for cell in cells:
        texts = {trial["learning_rate"]: _trial_text(trial, cell) for trial in cell["trials"]}
        head = [cell["model"]] if several else []
        head += [label(cell["norm"]), str(cell["batch_size"])]
        table.append([*head, *(texts.get(rate, "-") for rate in rates)])
    edge = [f"{label(c['norm'])} at batch {c['batch_size']}" for c in cells if c["edge"]]
    at_edge = (
        f"\nThe best rate is the lowest or the highest one tried for {listed(edge)}: a rate beyond "
        "it may be better still.\n"
        if edge
        else ""
    )
    return f"""
## Learning rates tried

The error in % on held-out training images, by the learning rate for 32 images. The rate in bold was
taken for all seeds.

{_markdown(table, left=len(models) + 1)}
{at_edge}"""


def _trial_text(trial: dict[str, Any], cell: dict[str, Any]) -> str:
    text = "diverged" if trial["diverged"] else f"{100 * trial['error']:.1f}"
    return f"**{text}**" if trial["learning_rate"] == cell["learning_rate"] else text


def runs(summary: dict[str, Any]) -> str:
    """Returns a table with a row per run."""
    several = len(summary["options"]["models"]) > 1
    models = ["model"] if several else []
    rows = [[*models, "norm", "batch", "seed", "error in %", "epochs", "step ms", "MiB", "s"]]
    for run in summary["runs"]:
        config = run["config"]
        rows.append(
            [
                *([config["model"]] if several else []),
                *(run["norm"], str(config["batch_size"]), str(config["seed"])),
                f"{100 * run['error']:.2f}" + (" diverged" if run["diverged"] else ""),
                str(len(run["history"]["val_error"])),
                "-" if run["step_ms"] is None else f"{run['step_ms']:.1f}",
                f"{run['peak_mib']:.0f}",
                f"{run['seconds']:.0f}",
            ]
        )
    return _markdown(rows, left=len(models) + 1)


def published(summary: dict[str, Any]) -> str:
    """Returns the published errors of the preset beside the measured ones, or an empty text."""
    options = summary["options"]
    if options["preset"] is None:
        return ""
    parts = []
    for numbers in PRESETS[options["preset"]].published:
        rows = [["norm", "batch", "published", *(f"measured, {m}" for m in options["models"])]]
        for (norm, size), error in numbers.errors.items():
            texts = []
            for model in options["models"]:
                kin = [c for c in summary["cells"] if (c["model"], c["norm"]) == (model, norm)]
                if numbers.same_batch:
                    here = [error_text(cell) for cell in kin if cell["batch_size"] == size]
                else:
                    here = [f"{error_text(cell)} at {cell['batch_size']}" for cell in kin]
                texts.append("; ".join(here).replace(" at ", " at batch ", 1) or "-")
            rows.append([norm, "-" if size is None else str(size), error, *texts])
        table = _markdown(rows, left=1)
        parts.append(f"Published: {numbers.what} ({numbers.source}).\n\n{table}\n")
    if not parts:
        return ""
    return (
        "\n## Published and measured errors in %\n\n"
        + "\n".join(parts)
        + (
            "\nThe networks, the images and the lengths of training differ: compare how the errors "
            "change along a column.\n"
        )
    )


def _rows(
    summary: dict[str, Any],
    model: str,
    text: Callable[[dict[str, Any]], str],
    norms: Sequence[str] | None = None,
) -> list[list[str]]:
    """Returns a header and a row per norm, with a column per batch size."""
    of_model = [cell for cell in summary["cells"] if cell["model"] == model]
    rows = [["", *(f"batch {size}" for size in sorted({c["batch_size"] for c in of_model}))]]
    for norm in summary["options"]["norms"] if norms is None else norms:
        rows.append([label(norm), *(text(cell) for cell in of_model if cell["norm"] == norm)])
    return rows


def _markdown(rows: list[list[str]], left: int) -> str:
    """Returns a Markdown table; all but the first `left` columns are aligned to the right."""
    header, *rows = rows
    rule = [*["---"] * left, *["---:"] * (len(header) - left)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rows])
