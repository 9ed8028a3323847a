"""Trainings in processes of their own, one or several at a time."""

from __future__ import annotations

import collections
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any

from ..config import RunConfig
from ..errors import RunError


def train(
    configs: list[RunConfig],
    data: Path,
    folder: Path,
    workers: int,
    arguments: Sequence[str] = (),
) -> Generator[tuple[RunConfig, dict[str, Any]], None, None]:
    """Trains runs, each in a worker process. Closing the generator ends the workers.

    Args:
        configs: the runs, in the order in which they start.
        data: the path of a `Dataset`.
        folder: has the output of each run while it trains; that of a failed run stays there.
        workers: number of runs that train at a time.
        arguments: options of the worker's command line.

    Yields:
        A config and a message of its worker; the last message of a config has its `result`.

    Raises:
        RunError: if a worker ended without a result.
    """
    waiting = collections.deque(configs)
    active: dict[RunConfig, subprocess.Popen[str]] = {}
    lines: queue.SimpleQueue[tuple[RunConfig, str | None]] = queue.SimpleQueue()
    last: dict[RunConfig, dict[str, Any]] = {}
    try:
        while waiting or active:
            while waiting and len(active) < workers:
                config = waiting.popleft()
                active[config] = _start(config, data, folder, workers, arguments)
                threading.Thread(
                    target=_forward, args=(config, active[config].stdout, lines), daemon=True
                ).start()
            config, line = lines.get()
            if line is None:
                exit_code = _wait(active[config])
                # Not before: Ctrl-C during the wait must end this worker, too.
                del active[config]
                _check(config, exit_code, last.pop(config, {}), folder)
                continue
            last[config] = json.loads(line)
            yield config, last[config]
    finally:
        for worker in active.values():
            worker.kill()
        for worker in active.values():
            _wait(worker)


def _start(
    config: RunConfig, data: Path, folder: Path, workers: int, arguments: Sequence[str]
) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "tfgn_study.train.worker"),
        *(json.dumps(config.as_dict()), str(data), "--end-with-stdin"),
        *arguments,
    ]
    with _log(config, folder).open("w") as log:
        # In a session of its own: Ctrl-C interrupts this process, which then ends the worker.
        return subprocess.Popen(
            command,
            # Nothing is written to it. It closes with this process, and that ends the worker.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=_environment(workers),
        )


def _wait(worker: subprocess.Popen[str]) -> int:
    exit_code = worker.wait()
    if worker.stdin is not None:
        worker.stdin.close()
    return exit_code


def _environment(workers: int) -> dict[str, str]:
    """Returns the environment variables of a worker, which gives it its share of the cores."""
    if workers == 1:
        return dict(os.environ)
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    # By default TensorFlow takes all cores, and all the memory of a GPU.
    shared = {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return shared | os.environ


def _forward(
    config: RunConfig, stdout: IO[str], lines: queue.SimpleQueue[tuple[RunConfig, str | None]]
) -> None:
    """Puts each complete line of a worker into the queue, and `None` at the end."""
    with stdout:
        for line in stdout:
            if line.endswith("\n"):  # Otherwise the worker died while it wrote.
                lines.put((config, line))
    lines.put((config, None))


def _log(config: RunConfig, folder: Path) -> Path:
    return folder / f"{config.name}.log"


def _check(config: RunConfig, exit_code: int, message: dict[str, Any], folder: Path) -> None:
    if exit_code or "result" not in message:
        raise RunError(
            f"the run {config.name} failed with exit code {exit_code}; "
            f"its output is in {_log(config, folder)}; the runs finished before are kept"
        )
    _log(config, folder).unlink()
