"""The answer of a study in words: which norms differ from the reference by more than chance."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..presets import PRESETS
from .names import errs, label, listed, sizes_text
from .uncertainty import Estimate

#: The norms without batch statistics to which BN is compared: the first that is there.
_INDEPENDENT = ("gn+ws", "gn", "ln")

#: So many norms of which no difference is clear are named.
_NAMED = 3

#: The cells of a model by norm and batch size.
_Cells: TypeAlias = Mapping[tuple[str, int], Mapping[str, Any]]


def sentences(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the verdict: pairs of what it is about ("Batch 1 to 4") and a text.

    Batch sizes beside each other of which the same is to be said share a text. If `bn` and
    `bn+precise` are among the norms, the last text says how much of BN's error is due to its
    evaluation statistics.

    Args:
        summary: the result of `summary.summarize`.
    """
    options = summary["options"]
    said = []
    for model in options["models"]:
        cells = {(c["norm"], c["batch_size"]): c for c in summary["cells"] if c["model"] == model}
        suffix = f", {model}" if len(options["models"]) > 1 else ""
        if len(options["norms"]) > 1:
            others = [norm for norm in options["norms"] if norm != summary["reference"]]
            for sizes in _alike(cells, others):
                text = _comparison(cells, others, summary["reference"], sizes, options["task"])
                said.append((f"Batch {sizes_text(sizes)}{suffix}", text))
        if {"bn", "bn+precise"} <= set(options["norms"]):
            said.append((f"Evaluation statistics{suffix}", _evaluation(cells)))
    return said


def note(summary: Mapping[str, Any]) -> str:
    """Returns what a preset on the digits cannot show, or an empty text."""
    options = summary["options"]
    preset = options["preset"]
    if preset is None or not PRESETS[preset].published or options["dataset"] != "digits":
        return ""
    return (
        "The digits are too easy a task to show the effect that the paper measured: every norm "
        "learns them from a few hundred images. Compare on images of your own (--data) or with "
        "--preset fashion-mnist."
    )


def is_clear(difference: Mapping[str, Any]) -> bool:
    """Whether a difference of a cell is beyond chance."""
    return Estimate(**difference).clear


def _verdict(cell: Mapping[str, Any]) -> str:
    difference = cell["difference"]
    if difference["low"] is None:
        return "unknown"
    if not is_clear(difference):
        return "not clear"
    return "fewer" if difference["high"] < 0 else "more"


def _alike(cells: _Cells, norms: Sequence[str]) -> list[list[int]]:
    """Returns the batch sizes, ascending, in groups of neighbors with the same verdicts."""
    sizes = sorted({size for _, size in cells})
    groups = itertools.groupby(sizes, lambda size: [_verdict(cells[norm, size]) for norm in norms])
    return [list(group) for _, group in groups]


def _comparison(
    cells: _Cells, norms: Sequence[str], reference: str, sizes: Sequence[int], task: str
) -> str:
    """Returns what is to be said of some batch sizes with the same verdicts."""

    def named(norm: str) -> str:
        return f"{label(norm)} ({_errors(cells, norm, sizes)})"

    verdicts: dict[str, list[str]] = {}
    for norm in norms:
        verdicts.setdefault(_verdict(cells[norm, sizes[0]]), []).append(norm)
    texts: list[str] = []
    for verdict in ("fewer", "more"):
        if found := verdicts.get(verdict):
            than = label(reference) if texts else named(reference)
            names = listed([named(norm) for norm in found])
            texts.append(f"{names} {errs(task, verdict, len(found))} than {than}, beyond chance.")
    if unclear := verdicts.get("not clear"):
        bounds = [
            abs(cells[norm, size]["difference"][end])
            for norm in unclear
            for size in sizes
            for end in ("low", "high")
        ]
        names = listed([named(norm) for norm in unclear], "or")
        if len(unclear) > _NAMED:
            names = f"the {'other ' if len(unclear) < len(norms) else ''}{len(unclear)} norms"
        of = label(reference) if texts else named(reference)
        texts.append(
            f"{'No' if texts else 'no'} clear difference between {of} and {names}; one of more "
            f"than {100 * max(bounds):.1f} points is unlikely."
        )
    if unknown := verdicts.get("unknown"):
        names = listed([named(norm) for norm in unknown])
        of = label(reference) if texts else named(reference)
        texts.append(f"{names} against {of}: from one run each, chance cannot be told.")
    return " ".join(texts)


def _errors(cells: _Cells, norm: str, sizes: Sequence[int]) -> str:
    """Returns the errors of a norm, as in `1.7 to 2.3%`, and how many of its runs diverged."""
    errors = [100 * cells[norm, size]["error"] for size in sizes]
    low, high = f"{min(errors):.1f}", f"{max(errors):.1f}"
    diverged = sum(cells[norm, size]["diverged"] for size in sizes)
    return (f"{low}%" if low == high else f"{low} to {high}%") + (
        f", {diverged} run{'' if diverged == 1 else 's'} diverged" if diverged else ""
    )


def _evaluation(cells: _Cells) -> str:
    """Returns how much of BN's error goes away when its statistics are measured anew."""
    sizes = sorted({size for norm, size in cells if norm == "bn"})
    texts, without = [], []
    for size in sizes:
        difference = cells["bn+precise", size]["difference"]
        if _verdict(cells["bn+precise", size]) != "fewer":
            without.append(size)
            continue
        gain = -difference["value"]
        interval = f"{-100 * difference['high']:.1f} to {-100 * difference['low']:.1f}"
        texts.append(f"{100 * gain:.1f} points at batch {size} ({interval}{_share(cells, size)})")
    start = "measured anew over the training images, they lower the error of BN"
    if not texts:
        return f"{start} at no batch size beyond chance."
    end = f"; no gain seen at batch {listed(list(map(str, without)))}" if without else ""
    return f"{start} by {listed(texts)}{end}."


def _share(cells: _Cells, size: int) -> str:
    """Returns which part of BN's distance to a norm without batch statistics that is."""
    norm = next((norm for norm in _INDEPENDENT if (norm, size) in cells), None)
    if norm is None or _verdict(cells[norm, size]) != "fewer":
        return ""
    distance = -cells[norm, size]["difference"]["value"]
    gain = -cells["bn+precise", size]["difference"]["value"]
    part = f"{gain / distance:.0%}" if gain < distance else "all"
    return f"; {part} of the {100 * distance:.1f} points that lie between BN and {label(norm)}"
