"""A complete run of the benchmarks."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tfgn_cli._processes import WorkerError

from . import accuracy, machine
from .cases import LADDER, NETWORKS, Inference, Step
from .export import contenders as exports
from .export import files
from .results import Results
from .rounds import Workers, measure, peak_memory
from .sections import SECTIONS, Entry, Group

ROUNDS, QUICK_ROUNDS = 15, 3
#: A step takes as long as a thousand ops and has less noise, so fewer rounds suffice.
STEP_ROUNDS = 10
QUICK_ROWS = ("conv1_pooled", "conv5")
QUICK_BYTES = 4e6
QUICK_NORMS = ("bn", "ours", "saving")


def run(
    command: str,
    only: Collection[str],
    shapes: Collection[tuple[int, ...]] | None,
    rounds: int | None,
    quick: bool,
    networks: Collection[str] = tuple(NETWORKS),
    peaks: bool = True,
) -> Results:
    """Measures the sections.

    Args:
        command: the command line, for the report.
        only: the names of the sections, and `"accuracy"`.
        shapes: shapes that replace the ladder's, or None.
        rounds: the rounds per group, or None for the default.
        quick: whether to run only a part, with few rounds.
        networks: keys of `NETWORKS`, those of the section `memory`.
        peaks: whether to measure the peak memory of steps.
    """
    shapes = shapes or [LADDER[name].shape for name in (QUICK_ROWS if quick else LADDER)]
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    groups = [g for g in _groups(only, shapes, quick) if _is_of(g, networks)]
    checks = accuracy.cases() if "accuracy" in only else []
    if quick:
        checks = [(case, mean) for case, mean in checks if case.shape == accuracy.CASES[0].shape]
    results = Results(
        {
            "command": command,
            "date": datetime.date.today().isoformat(),
            "rounds": rounds,
            "machine": machine.describe(),
        }
    )
    steps = {
        group.title: _steps(group, quick) for group in groups if group.section == "memory" and peaks
    }
    total = sum(_rounds(group, rounds) for group in groups) + len(checks)
    total += sum(map(len, steps.values()))
    with files.folder(), Workers() as workers, _progress() as progress:
        task = progress.add_task("starting", total=total)
        for group in groups:
            progress.update(task, description=group.title)
            _measure(group, workers, rounds, results, lambda: progress.advance(task))
            if group.section == "export":
                results.nodes |= _nodes(group)
            for case in steps.get(group.title, ()):
                progress.update(task, description=f"peak of {case.text}, batch {case.batch}")
                _measure_memory(case, results)
                progress.advance(task)
        for case, mean in checks:
            progress.update(task, description=f"accuracy, {case.dtype}, mean {mean:g}")
            results.accuracy += accuracy.evaluate(
                case, mean, workers, lambda *failure: results.skipped.append(": ".join(failure))
            )
            progress.advance(task)
        for framework, reason in workers.missing.items():
            results.skipped.append(f"{framework} is not installed: {reason}")
        results.environment["versions"] = workers.versions
    return results


def violations(results: Results, required: bool) -> list[str]:
    """Returns a sentence for each failure of our accuracy.

    Args:
        required: whether missing results are failures.
    """
    missing = [
        f"the accuracy of the {name} was not measured"
        for name in accuracy.OURS
        if required and not any(row.contender == name for row in results.accuracy)
    ]
    return missing + accuracy.violations(results.accuracy)


def _groups(only, shapes, quick: bool) -> Iterator[Group]:
    for name, section in SECTIONS.items():
        if name in only:
            groups = list(section(shapes))
            yield from _quick(groups) if quick else groups


def _is_of(group: Group, networks: Collection[str]) -> bool:
    return group.section != "memory" or group.entries[0].case.network in networks


def _quick(groups: list[Group]) -> Iterator[Group]:
    """Yields the first and last group of small tensors, without entries that start slowly."""
    fast = [g._replace(entries=[e for e in g.entries if not _is_slow(e)]) for g in groups]
    fast = [group for group in fast if group.entries]
    small = [g for g in fast if g.entries[0].case.nbytes < QUICK_BYTES] or fast
    yield from small[:1] + small[1:][-1:]


def _is_slow(entry: Entry) -> bool:
    if isinstance(entry.case, Step):
        return entry.case.jit or entry.case.norm not in QUICK_NORMS
    return entry.contender in ("composite jit", exports.TORCH_COMPILED)


def _rounds(group: Group, rounds: int) -> int:
    return min(rounds, STEP_ROUNDS) if group.section in ("step", "memory") else rounds


def _measure(group: Group, workers: Workers, rounds: int, results: Results, on_round):
    times, errors = measure(group, workers, _rounds(group, rounds), on_round)
    results.times |= {(group.section, entry): ns for entry, ns in times.items()}
    results.skipped += [
        f"{group.title}: {entry.contender}: {message}" for entry, message in errors.items()
    ]


def _nodes(group: Group) -> dict[Entry, int]:
    """Returns the numbers of nodes of the ONNX files that the entries run."""
    numbers = {
        entry: files.nodes(
            entry.case.network, entry.case.batch, exports.CONTENDERS[entry.contender].file
        )
        for entry in group.entries
        if isinstance(entry.case, Inference)
    }
    return {entry: number for entry, number in numbers.items() if number is not None}


def _steps(group: Group, quick: bool) -> list[Step]:
    """Returns the steps whose peak memory is measured: those of the group, in every batch."""
    cases = [entry.case for entry in group.entries]
    if quick:
        return cases
    return [
        dataclasses.replace(case, batch=batch)
        for case in cases
        for batch in NETWORKS[case.network].batches
    ]


def _measure_memory(case: Step, results: Results):
    try:
        results.memory[case] = peak_memory(Entry("step", case))
    except WorkerError as error:
        text = f"peak memory of {case.text}, {case.network}, {case.dtype}, batch {case.batch}"
        results.skipped.append(f"{text}: {error.sentence}")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
