"""Packages from PyPI beside the installed ones, for tests marked `servers`."""

import subprocess
import sys

from environments import ROOT
from paths import python_path


def environment(name, *requirements):
    """Installs packages without their dependencies; returns environment variables to find them.

    They are kept in build/, so that a second run installs nothing.
    """
    folder = ROOT / "build" / "environments" / name
    complete = folder / "complete"
    if not complete.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--upgrade", "--no-deps", "--target", folder, *requirements]
        subprocess.run(command, check=True, timeout=1800)
        complete.touch()
    return {"PYTHONPATH": python_path(folder)}
