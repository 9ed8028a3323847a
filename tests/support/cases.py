"""The shapes of `shapes.txt` by name, and element types, for tests and benchmarks.

Imports the standard library alone: the benchmarks on a GPU have neither pytest nor TensorFlow.
"""

from pathlib import Path
from typing import NamedTuple

ELEMENT_TYPES = ("float16", "bfloat16", "float32", "float64")
ACTIVATIONS = ("linear", "relu", "silu")
EPSILON_MODES = ("add_to_variance", "add_to_stddev", "clamp_variance")

#: The forms of gamma and beta.
AFFINE = ("absent", "per_channel", "per_sample")


def parameter_dtype(dtype):
    """Returns the dtype of gamma, beta, gain and the statistics beside elements of a dtype."""
    return "float64" if dtype == "float64" else "float32"


class GroupNormCase(NamedTuple):
    """A call of GroupNorm; `activation` and `affine` are for tests that do not try them all."""

    shape: tuple
    axis: int
    groups: int
    activation: str = "linear"
    affine: str = "per_channel"


class KernelCase(NamedTuple):
    """A call of StandardizeWeights; the last two are for tests that do not try them all."""

    shape: tuple
    axis: tuple
    epsilon_mode: str = "add_to_variance"
    ddof: int = 0


def _integers(text, separator):
    return tuple(map(int, text.split(separator)))


def _group_norm(shape, axis, groups, *form):
    return GroupNormCase(_integers(shape, "x"), int(axis), int(groups), *form)


def _kernel(shape, axes, epsilon_mode="add_to_variance", ddof=0):
    return KernelCase(_integers(shape, "x"), _integers(axes, ","), epsilon_mode, int(ddof))


def _tables():
    """The cells of each row of `shapes.txt`, by table and name."""
    tables = {}
    for line in Path(__file__).with_name("shapes.txt").read_text().splitlines():
        if line.startswith("["):
            rows = tables[line.strip("[]")] = {}
        elif line and not line.startswith("#"):
            name, *cells = line.split()
            if name in rows:
                raise ValueError(f"two rows of a table of shapes.txt have the name {name}")
            rows[name] = cells
    return tables


_TABLES = _tables()


def group_norms(table):
    """Returns the cases of a table by name."""
    return {name: _group_norm(*cells) for name, cells in _TABLES[table].items()}


def kernels(table):
    """Returns the cases of a table by name."""
    return {name: _kernel(*cells) for name, cells in _TABLES[table].items()}


GROUP_NORM = group_norms("group_norm")
VECTOR_EDGES = group_norms("vector_edges")
LARGE = group_norms("large")
EMPTY = group_norms("empty")
KERNELS = kernels("kernels")
EMPTY_KERNELS = kernels("empty_kernels")
LARGE_KERNELS = kernels("large_kernels")
