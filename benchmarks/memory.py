"""The tables of the section `memory`: peaks, their slope by batch, and the time of the step."""

from __future__ import annotations

import dataclasses

import numpy as np

from .cases import MEMORY_DTYPES, MEMORY_NORMS, NETWORKS, STEP_NORMS, Step
from .results import Results
from .tables import Verdicts, markdown, missed, number, over

#: Targets of `save_memory`, over BatchNorm: the bytes of a further image, and the peak by batch.
SLOPE_LIMIT = 0.61
PEAK_LIMITS = {2: 1.0, 24: 0.70}
#: The bytes of a further image in mixed_bfloat16 over those of BatchNorm in float32.
BFLOAT16_SLOPE_LIMIT = 0.35
#: The time of a step over the same one without `save_memory`.
TIME_LIMIT = 1.02
MIB = 2**20


def table(results: Results, verdicts: Verdicts) -> str:
    """A table for each network, dtype and way to run it."""
    measured = results.cases("memory")
    parts = []
    for key, network in NETWORKS.items():
        for dtype in MEMORY_DTYPES:
            for jit in (False, True):
                cases = [
                    case
                    for case in measured
                    if (case.network, case.dtype, case.jit) == (key, dtype, jit)
                ]
                if cases:
                    title = f"{network.text}, {dtype}" + ", jit" * jit
                    parts.append(f"**{title}**\n\n{_table(results, verdicts, cases[0], title)}")
    return "\n\n".join(parts)


def peaks(results: Results, case: Step) -> dict[int, int]:
    """Returns the peaks of a step in bytes, by batch."""
    sizes = {
        other.batch: peak for other, peak in results.memory.items() if case == _at(other, case)
    }
    return dict(sorted(sizes.items()))


def slope(by_batch: dict[int, int]) -> float | None:
    """Returns the bytes of a further image, by least squares; None for fewer than two batches."""
    if len(by_batch) < 2:
        return None
    return float(np.polyfit(list(by_batch), list(by_batch.values()), 1)[0])


def _at(other: Step, case: Step) -> Step:
    return dataclasses.replace(other, batch=case.batch)


def _table(results: Results, verdicts: Verdicts, case: Step, title: str) -> str:
    batches = NETWORKS[case.network].batches
    by_norm = {norm: dataclasses.replace(case, norm=norm) for norm in MEMORY_NORMS}
    peak = {norm: peaks(results, step) for norm, step in by_norm.items()}
    ns = {norm: results.ns("memory", "step", step) for norm, step in by_norm.items()}
    several = len(batches) > 1
    rows = []
    for norm in MEMORY_NORMS:
        row = [_text(norm, case)]
        row += [number(over(peak[norm].get(batch), MIB), 0) for batch in batches]
        row.append(number(over(peak[norm].get(batches[-1]), peak["bn"].get(batches[-1]))))
        if several:
            row.append(number(over(slope(peak[norm]), MIB), 1))
            row.append(number(over(slope(peak[norm]), slope(peak["bn"]))))
        row += [number(over(ns[norm], 1e6), 0), number(over(ns[norm], ns["bn"]))]
        row += [number(over(ns[norm], ns["ours"])), ""]
        if norm == "saving":
            misses = missed(over(ns["saving"], ns["ours"]), TIME_LIMIT, "time of ours")
            misses += _memory_misses(results, case, peak)
            row[-1] = verdicts.judge(f"memory: {title}", misses)
        rows.append(row)
    header = ["", *(f"batch {batch}, MiB" for batch in batches), "over BN"]
    header += ["MiB per image", "over BN"] * several
    return markdown([*header, "step, ms", "over BN", "over ours", "verdict"], rows)


def _memory_misses(results: Results, case: Step, peak: dict[str, dict[int, int]]) -> list[str]:
    if len(NETWORKS[case.network].batches) < 2:
        (batch,) = NETWORKS[case.network].batches
        return missed(over(peak["saving"].get(batch), peak["ours"].get(batch)), 1, "peak of ours")
    bn = dataclasses.replace(case, norm="bn", dtype="float32")
    full = peaks(results, bn)
    if case.dtype != "float32":
        ratio = over(slope(peak["saving"]), slope(full))
        return missed(
            ratio, BFLOAT16_SLOPE_LIMIT, f"{BFLOAT16_SLOPE_LIMIT:g} of float32 BN per image"
        )
    misses = missed(
        over(slope(peak["saving"]), slope(full)), SLOPE_LIMIT, f"{SLOPE_LIMIT:g} of BN per image"
    )
    for batch, limit in PEAK_LIMITS.items():
        ratio = over(peak["saving"].get(batch), full.get(batch))
        factor = "" if limit == 1 else f"{limit:g} of "
        misses += missed(ratio, limit, f"{factor}BN at batch {batch}")
    return misses


def _text(norm: str, case: Step) -> str:
    text = STEP_NORMS[norm]
    # The block of a diffusion U-Net has plain kernels.
    return text.replace(" + WS", "") if case.network == "diffusion" else text
