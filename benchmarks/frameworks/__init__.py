"""One module per framework, imported only by its worker.

Each module has these functions, for the cases of `cases.py`:

- `versions()` returns the versions to report.
- `load(case, arrays)` converts NumPy arrays to the inputs of the computation.
- `function(contender, case)` returns the computation, which returns its outputs, or `Elsewhere` if
  another process computes.
- `to_numpy(case, outputs)` converts its outputs to NumPy arrays.
"""

from typing import NamedTuple


class Elsewhere(NamedTuple):
    """What a computation in a process of its own took there.

    Attributes:
        ns: nanoseconds by the clock of that process, without those of the request.
    """

    ns: int
