"""The memory of this process and of the machine, as Linux reports it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from collections.abc import Callable
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Returns the bytes that this process can take without swapping.

    The control group of a container may allow less than the machine has free.
    """
    # Where Linux tells nothing, as much as this process has taken so far.
    free = _field(Path("/proc/meminfo"), "MemAvailable") or peak()
    with contextlib.suppress(OSError, ValueError):  # No limit is the word "max".
        limit = int((_GROUP / "memory.max").read_text())
        used = int((_GROUP / "memory.current").read_text())
        # The kernel takes cached files back before it refuses memory.
        cached = _of_group("inactive_file")
        free = min(free, limit - used + cached)
    return max(free, 0)


def resident() -> int:
    """Returns the resident memory of this process in bytes."""
    return _field(Path("/proc/self/status"), "VmRSS") or peak()


def peak() -> int:
    """Returns the peak of the resident memory in bytes, since the start or `peak_of`."""
    most = _field(Path("/proc/self/status"), "VmHWM")
    return most or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_of(call: Callable[[], object]) -> int:
    """Returns the peak of the resident memory during a call, in bytes."""
    trim()
    with contextlib.suppress(OSError):  # If not permitted, the peak is that of the process.
        Path("/proc/self/clear_refs").write_text("5")
    call()
    return peak()


def trim() -> None:
    """Collects garbage and gives free memory back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # Another C library than glibc.
        ctypes.CDLL(None).malloc_trim(0)


def end_first() -> None:
    """Makes the kernel end this process rather than another one if memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _field(path: Path, name: str) -> int:
    """Returns a field in bytes, or 0 if there is none."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _of_group(name: str) -> int:
    for line in (_GROUP / "memory.stat").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
