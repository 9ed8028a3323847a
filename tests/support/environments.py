"""Environments of their own, with packages from PyPI, and the processes that run in them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from paths import ROOT


def create(name, wheel, *requirements):
    """Makes an environment with the wheel and the requirements; returns its interpreter.

    It is kept in build/, so that a second run installs the wheel alone.
    """
    folder = ROOT / "build" / "environments" / name
    python = folder / "bin" / "python"
    # pip takes what an interrupted installation left behind for whole.
    complete = folder / "complete"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not complete.exists():
        _run(sys.executable, "-m", "venv", "--clear", folder)
    _run(*pip, *requirements, wheel)
    complete.touch()
    # The version of a wheel that is another than last time is the same.
    _run(*pip, "--no-deps", "--force-reinstall", wheel)
    return python


def _run(*command):
    subprocess.run(command, check=True, timeout=1800)


def ray(wheel):
    """Makes the environment of the tests of Ray Serve and Ray Train."""
    return create("ray", wheel, "ray[serve,train]==2.60.*")


def mlserver(wheel):
    """Makes the environment of the tests of MLServer."""
    return create("mlserver", wheel, "mlserver==1.7.1")


def third_party(wheel):
    """Makes the environment of the models that others wrote, as tests/third_party pins it.

    Without the dependencies that the packages name: some forbid the others' versions, and none
    of what they then miss is needed to build a model.
    """
    pinned = ROOT / "tests" / "third_party" / "requirements.txt"
    return create("third_party", wheel, "--no-deps", "-r", pinned)


def processes(pid):
    """Returns a process and all its descendants, as numbers."""
    everyone = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    parents = {child: int(status[1]) for child in everyone if (status := _status(child))}
    tree = [pid]
    for member in tree:
        tree += [child for child, parent in parents.items() if parent == member]
    return tree


def resident_bytes(pid):
    """Returns the memory that a process and its descendants hold, shared pages counted once."""
    total = 0
    for member in processes(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


@contextlib.contextmanager
def running(command, log, **options):
    """Runs a command until the block ends; then neither it nor a descendant is left.

    Args:
        command: words.
        log: the file that takes its output.
        options: of `subprocess.Popen`.

    Yields:
        The `Popen`.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        tree = processes(process.pid) if process.poll() is None else []
        for how, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
            if not (tree := alive(tree)):
                break
            # The first is asked; what it leaves behind is not.
            for pid in tree[:1] if how == signal.SIGTERM else tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and alive(tree):
                process.poll()
                time.sleep(0.1)
        process.wait(20)


def alive(pids):
    """Returns those of the processes that have not ended; one that nobody asks about has."""
    return [pid for pid in pids if _status(pid)[:1] not in ([], ["Z"])]


def _status(pid):
    """Returns the state and the parent of a process, nothing where there is none."""
    with contextlib.suppress(OSError):
        # The name before them, in brackets, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return []
