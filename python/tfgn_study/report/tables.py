"""The tables of a report."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from rich.table import Table

from ..presets import PRESETS


def by_batch_size(
    summary: dict[str, Any], text: Callable[[dict[str, Any]], str], best: bool = False
) -> str:
    """Returns a table with a row per norm and a column per batch size, for each model.

    Args:
        summary: the result of `report.summarize`.
        text: returns the text of a cell.
        best: whether the lowest error of each batch size is bold.
    """
    models = summary["options"]["models"]
    tables = []
    for model in models:
        table = _markdown(_rows(summary, model, text, best), left=1)
        tables.append(table if len(models) == 1 else f"### {model}\n\n{table}")
    return "\n\n".join(tables)


def errors_on_console(summary: dict[str, Any]) -> list[Table]:
    """Returns the tables of errors for a terminal, one per model."""
    tables = []
    for model in summary["options"]["models"]:
        header, *rows = _rows(summary, model, error_text)
        table = Table(title="Validation error in %")
        table.add_column(model)
        for column in header[1:]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def error_text(cell: dict[str, Any]) -> str:
    """Returns the mean error of a cell in percent, with its spread over the seeds."""
    text = f"{100 * cell['error']:.1f}"
    if cell["error_min"] < cell["error_max"]:
        text += f" ({100 * cell['error_min']:.1f}-{100 * cell['error_max']:.1f})"
    return text + (" diverged" if cell["diverged"] else "")


def runs(summary: dict[str, Any]) -> str:
    """Returns a table with a row per run."""
    rows = [["model", "norm", "batch", "seed", "error in %", "epochs", "step ms", "MiB", "s"]]
    for run in summary["runs"]:
        config = run["config"]
        rows.append(
            [
                *(config["model"], run["norm"], str(config["batch_size"]), str(config["seed"])),
                f"{100 * run['error']:.2f}" + (" diverged" if run["diverged"] else ""),
                str(len(run["history"]["val_error"])),
                "-" if run["step_ms"] is None else f"{run['step_ms']:.1f}",
                f"{run['peak_mib']:.0f}",
                f"{run['seconds']:.0f}",
            ]
        )
    return _markdown(rows, left=2)


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


def typical_error(summary: dict[str, Any]) -> float:
    """Returns the median error of the cells, in [0, 1]."""
    return statistics.median(cell["error"] for cell in summary["cells"])


def _rows(
    summary: dict[str, Any],
    model: str,
    text: Callable[[dict[str, Any]], str],
    best: bool = False,
) -> list[list[str]]:
    """Returns a header and a row per norm, with a column per batch size."""
    of_model = [cell for cell in summary["cells"] if cell["model"] == model]
    batch_sizes = sorted({cell["batch_size"] for cell in of_model})
    lowest = {
        size: min(cell["error"] for cell in of_model if cell["batch_size"] == size)
        for size in batch_sizes
    }
    rows = [["", *(f"batch {size}" for size in batch_sizes)]]
    for norm in summary["options"]["norms"]:
        texts = [
            f"**{text(cell)}**"
            if best and cell["error"] == lowest[cell["batch_size"]]
            else text(cell)
            for cell in of_model
            if cell["norm"] == norm
        ]
        rows.append([norm, *texts])
    return rows


def _markdown(rows: list[list[str]], left: int) -> str:
    """Returns a Markdown table; all but the first `left` columns are aligned to the right."""
    header, *rows = rows
    rule = [*["---"] * left, *["---:"] * (len(header) - left)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rows])
