"""Where the parts of the repository are, and how another process imports `support`."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = Path(__file__).parent
EXAMPLES = ROOT / "examples"


def python_path(*folders):
    """Returns a PYTHONPATH that starts with folders."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, folders), *([inherited] if inherited else [])])
