"""The tables of `tfgn bench MODEL`."""

from __future__ import annotations

import textwrap
from typing import Any

from rich import box
from rich.table import Table

from .job import AS_IT_IS, Row

WIDTH = 80


def of(result: dict[str, Any]) -> list[Any]:
    """Returns what to print: the tables, and below them a sentence for each note and error.

    Args:
        result: of `run.run`.
    """
    batch_norm = " (BN)" * bool(result["facts"]["batch_norms"])
    parts: list[Any] = [_title(result), _rows(result["rows"], batch_norm)]
    parts += _notes(
        {
            Row(row["variant"], row["jit"]).text: [*filter(None, [row["error"]]), *row["notes"]]
            for row in result["rows"]
        }
    )
    if searches := result["largest_batches"]:
        parts.append(f"In {searches[0]['limit_bytes'] / 2**30:g} GB:")
        parts.append(_largest(searches))
        parts += _notes({row["variant"]: [*filter(None, [row["note"]])] for row in searches})
    return parts


def _title(result: dict[str, Any]) -> str:
    facts = result["facts"]
    inputs = ", ".join("x".join(map(str, shape)) for shape in facts["inputs"].values())
    return _wrapped(
        f"{facts['model']}: {facts['parameters']:,} parameters, {facts['dtype']}, inputs {inputs}, "
        f"{facts['optimizer']}. Medians of {result['repeats']} rounds on the CPU; ratios are to "
        "the first row; peak memory is that of a training step, above the process before the model."
    )


def _rows(rows: list[dict[str, Any]], batch_norm: str) -> Table:
    table = _table("training\nms", "ratio", "inference\nms", "ratio", "peak\nMiB", "ratio")
    for row in rows:
        cells = []
        for name, unit, digits in (
            ("training_ms", 1, 1),
            ("inference_ms", 1, 1),
            ("peak_bytes", 2**20, 0),
        ):
            value, ratio = row.get(name), row["ratios"].get(name)
            cells.append("-" if value is None else f"{value / unit:.{digits}f}")
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        text = Row(row["variant"], row["jit"]).text
        table.add_row(text.replace(AS_IT_IS, AS_IT_IS + batch_norm), *cells)
    return table


def _largest(searches: list[dict[str, Any]]) -> Table:
    table = _table("largest batch", "ratio", "peak\nMiB", "too large")
    first = searches[0]["batch_size"]
    for row in searches:
        size, over = row["batch_size"], row["too_large"]
        none = "none" if row["peaks"] else "-"
        table.add_row(
            row["variant"],
            str(size) if size else none,
            f"{size / first:.2f}" if size and first else "-",
            f"{row['peaks'][size] / 2**20:.0f}" if size else "-",
            "-" if over is None else str(over),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _notes(notes: dict[str, list[str]]) -> list[str]:
    """Returns a paragraph for each sentence, which names all rows that it is about."""
    rows: dict[str, list[str]] = {}
    for row, sentences in notes.items():
        for sentence in sentences:
            rows.setdefault(sentence, []).append(row)
    return [_wrapped(f"{'; '.join(names)}: {sentence}") for sentence, names in rows.items()]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)
