"""Measures all rows, each in a process of its own, and prints the tables."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import signal
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .. import _memory
from .._processes import WorkerDiedError, WorkerError, WorkerProcess
from . import tables
from .job import VARIANTS, Job, RefusedError, Row
from .largest_batch import Search
from .sources import Source, Sources

WORKER = "tfgn_cli._model_bench.worker"
#: Of TensorFlow: its warnings go nowhere; and the peak memory is that of the CPU.
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

#: The part of the available memory that a search may use, which leaves some to everyone else.
USABLE = 0.9


def run(job: Job, jit: bool, repeats: int, memory: int | None) -> dict[str, Any]:
    """Measures a model and prints the tables.

    Args:
        job: the model.
        jit: whether there are rows with `jit_compile=True`.
        repeats: timings of each step.
        memory: the bytes that the largest batch has to fit into; None to leave that out.

    Returns:
        The content of the JSON file: `environment`, the fields of `job`, `facts` (of the model as
        it is), `repeats`, `rows` (`variant`, `jit`, `training_ms`, `inference_ms`, `peak_bytes`,
        their ratios to the first row in `ratios`, `notes`, and `error`, a sentence or None) and
        `largest_batches` (`variant`, `limit_bytes`, `batch_size`, 0 if none fits, `too_large`, the
        smallest size that was measured and does not fit, `peaks`, the bytes of every size, and
        `note`).

    Raises:
        RefusedError: if the model as it is cannot be trained on random numbers.
        WorkerError: if its process fails for another reason.
    """
    rows = [Row(variant, compiled) for compiled in (False, True)[: 1 + jit] for variant in VARIANTS]
    console = Console(markup=False, highlight=False)  # Paths may hold brackets.
    with _progress() as progress, tempfile.TemporaryDirectory(prefix="tfgn-bench-") as folder:
        sources = Sources(job, Path(folder), _ask)
        result = _measure(job, sources, rows, repeats, progress)
        searches = [] if memory is None else _searches(sources, memory, result["rows"], progress)
    result["largest_batches"] = searches
    console.print(*tables.of(result), sep="\n")
    return result


def _measure(
    job: Job, sources: Sources, rows: list[Row], repeats: int, progress: Progress
) -> dict[str, Any]:
    task = progress.add_task("starting", total=len(rows) + repeats)
    measured: dict[Row, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        processes: dict[Row, WorkerProcess] = {}
        environment = {}
        for row in rows:
            progress.update(task, description=row.text)
            process, measured[row] = _start(sources, row, measured.get(rows[0]))
            if process is not None:
                stack.push(process)
                processes[row] = process
                environment = process.facts
            progress.advance(task)
        progress.update(task, description="timing")
        times = _rounds(processes, measured, repeats, lambda: progress.advance(task))
    facts = measured[rows[0]].pop("facts")
    for row, values in measured.items():
        for name in ("training", "inference") if values["error"] is None else ():
            values[f"{name}_ms"] = 1e3 * statistics.median(times[row][name])
    first = measured[rows[0]]
    content = [
        {"variant": row.variant, "jit": row.jit, **values, "ratios": _ratios(values, first)}
        for row, values in measured.items()
    ]
    return {"environment": environment, **vars(job), "facts": facts, "repeats": repeats} | {
        "rows": content
    }


def _start(
    sources: Sources, row: Row, first: dict[str, Any] | None
) -> tuple[WorkerProcess | None, dict[str, Any]]:
    """Starts the process of a row, and measures its peak memory.

    Returns:
        The process, or None if it failed, and the row.

    Raises:
        RefusedError, WorkerError: see `run`; of the first row only.
    """
    values: dict[str, Any] = {"error": None, "notes": [], "peak_bytes": None}
    available = _memory.available()
    if first is not None and first["peak_bytes"] > USABLE * available:
        left = f"{available / 2**30:.1f} GB"
        return None, values | {"error": f"it was not run: the other processes leave only {left}"}
    process = None
    try:
        source = sources.of(row.variant)
        process = WorkerProcess(WORKER, environment=ENVIRONMENT)
        facts = _answer(process, "prepare", source.job, Row(source.variant, row.jit))
        values["notes"] = list(dict.fromkeys(source.notes + facts.pop("notes")))
        values["peak_bytes"] = _answer(process, "peak")["bytes"]
        _answer(process, "warm_up")
    except (RefusedError, WorkerError) as error:
        if process is not None:
            process.close()
        if first is None:
            raise
        return None, values | {"error": _sentence(error)}
    except BaseException:
        if process is not None:
            process.close()
        raise
    return process, values | ({"facts": facts} if first is None else {})


def _rounds(
    processes: dict[Row, WorkerProcess],
    measured: dict[Row, dict[str, Any]],
    repeats: int,
    on_round: Callable[[], None],
) -> dict[Row, dict[str, list[float]]]:
    """Lets the processes take turns, in random order."""
    times: dict[Row, dict[str, list[float]]] = {
        row: {"training": [], "inference": []} for row in processes
    }
    order = random.Random(0)
    for _ in range(repeats):
        for row in order.sample(list(processes), len(processes)):
            if measured[row]["error"] is not None:
                continue
            try:
                seconds = _answer(processes[row], "turn")
            except (RefusedError, WorkerError) as error:
                measured[row]["error"] = _sentence(error)
                continue
            for name, value in seconds.items():
                times[row][name].append(value)
        on_round()
    return times


def _ask(method: str, *arguments: Any) -> dict[str, Any]:
    """Returns the answer of a new process."""
    with WorkerProcess(WORKER, environment=ENVIRONMENT) as process:
        return _answer(process, method, *arguments)


def _answer(process: WorkerProcess, method: str, *arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = process.call(method, *arguments)
    if "refused" in answer:
        raise RefusedError(answer["refused"])
    return answer


def _sentence(error: RefusedError | WorkerError) -> str:
    return error.sentence if isinstance(error, WorkerError) else str(error)


def _ratios(values: dict[str, Any], first: dict[str, Any]) -> dict[str, float]:
    names = ("training_ms", "inference_ms", "peak_bytes")
    both = [name for name in names if values.get(name) and first.get(name)]
    return {name: values[name] / first[name] for name in both}


def _searches(
    sources: Sources, limit: int, rows: list[dict[str, Any]], progress: Progress
) -> list[dict[str, Any]]:
    """Finds the largest batch of each variant, without jit."""
    return [_search(sources, limit, row, progress) for row in rows if not row["jit"]]


def _search(
    sources: Sources, limit: int, row: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    variant, note, search = row["variant"], row["error"], Search(limit, {})
    if note is None:
        source = sources.of(variant)
        search.peaks[source.job.batch_size] = row["peak_bytes"]
        task = progress.add_task(variant, total=None)

        def measure(size: int) -> int | None:
            progress.update(task, description=f"{variant}, batch {size}")
            return _peak(source, size)

        try:
            search.run(measure, lambda: int(USABLE * _memory.available()))
        except (RefusedError, WorkerError) as error:
            note = _sentence(error)
        progress.remove_task(task)
    return {
        "variant": variant,
        "limit_bytes": limit,
        "batch_size": search.largest,
        "too_large": search.too_large,
        "peaks": search.peaks,
        "note": note or search.stopped or None,
    }


def _peak(source: Source, size: int) -> int | None:
    sized = dataclasses.replace(source.job, batch_size=size)
    with WorkerProcess(WORKER, environment=ENVIRONMENT) as process:
        try:
            _answer(process, "prepare", sized, Row(source.variant, jit=False))
            return int(_answer(process, "peak")["bytes"])
        except WorkerDiedError as error:
            if error.exit_code == -signal.SIGKILL:
                return None
            raise


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
