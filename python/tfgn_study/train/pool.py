"""Trainings in processes of their own, one or several at a time."""

from __future__ import annotations

import collections
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..config import RunConfig, RunError


def train(
    configs: list[RunConfig],
    data: Path,
    folder: Path,
    workers: int,
    arguments: Sequence[str] = (),
) -> Iterator[tuple[RunConfig, dict]]:
    """Trains runs; ends those that go on when it is closed itself.

    Args:
        configs: the runs, in the order in which they are started.
        data: the path of a `Dataset`.
        folder: where a run keeps its output while it goes on, or if it fails.
        workers: how many train at a time.
        arguments: options of the worker's command line.

    Yields:
        A config and a message of its worker; the last one of a config has its `result`.

    Raises:
        RunError: if a worker ended without a result.
    """
    waiting = collections.deque(configs)
    active: dict[RunConfig, subprocess.Popen] = {}
    lines: queue.SimpleQueue = queue.SimpleQueue()
    last: dict[RunConfig, dict] = {}
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
                # Not before: Ctrl-C while it waits is to end this worker, too.
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
) -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "tfgn_study.train.worker"),
        *(json.dumps(config.as_dict()), str(data), "--end-with-stdin"),
        *arguments,
    ]
    with _log(config, folder).open("w") as log:
        # A session of its own: Ctrl-C is for this process, which then ends the worker.
        return subprocess.Popen(
            command,
            # Never written to: it ends when this process does, however that ends.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=_environment(workers),
        )


def _wait(worker: subprocess.Popen) -> int:
    exit_code = worker.wait()
    worker.stdin.close()
    return exit_code


def _environment(workers: int) -> dict[str, str]:
    """Returns the variables of a worker: each gets its part of the cores."""
    if workers == 1:
        return dict(os.environ)
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    # By default TensorFlow takes all cores, and all the memory of a GPU.
    shared = {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return shared | os.environ


def _forward(config: RunConfig, stdout, lines: queue.SimpleQueue):
    """Puts each whole line of a worker into the queue, and `None` at its end."""
    with stdout:
        for line in stdout:
            if line.endswith("\n"):  # Else the worker died while it wrote.
                lines.put((config, line))
    lines.put((config, None))


def _log(config: RunConfig, folder: Path) -> Path:
    return folder / f"{config.name}.log"


def _check(config: RunConfig, exit_code: int, message: dict, folder: Path):
    if exit_code or "result" not in message:
        raise RunError(
            f"the run {config.name} failed with exit code {exit_code}; "
            f"its output is in {_log(config, folder)}, the runs before it are kept"
        )
    _log(config, folder).unlink()
