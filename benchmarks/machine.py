"""The description of the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe() -> dict[str, str]:
    """Returns the properties of the machine that determine speed."""
    return {
        "CPU": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "caches (of a core's view)": ", ".join(_caches()) or "unknown",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _caches() -> list[str]:
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            kilobytes = int(size.removesuffix("K"))
            text = f"{kilobytes} KB" if kilobytes < 1024 else f"{kilobytes / 1024:g} MB"
            caches.append(f"L{level} {text}")
    return caches
