"""The process of a `Measurer`: `python -m tfgn_cli._model_bench.worker DESCRIPTOR`."""

from __future__ import annotations

import sys
from typing import Any

from .. import _memory
from .._processes import serve


def create() -> tuple[Any, dict[str, Any]]:
    """Returns a `Measurer` and the environment that it measures in.

    Raises:
        ImportError: if TensorFlow cannot be imported, or not this package for it.
    """
    from tfgn_study.environment import collect

    from .measuring import Measurer

    return Measurer(), collect()


if __name__ == "__main__":
    _memory.end_first()
    serve(sys.argv[1], create)
