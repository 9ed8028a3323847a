"""Hypothesis strategies for the shapes of calls. A call that fails shrinks to a small one."""

import math

from cases import GroupNormCase, KernelCase
from hypothesis import assume
from hypothesis import strategies as st

MOST_ELEMENTS = 40_000
LARGEST_SIZE = 4095
# What is summed has this many elements or more: of fewer, the terms of the gradient can cancel, and
# no relative bound holds.
SMALLEST_SUM = 8


@st.composite
def _sizes(draw, most):
    """1 to `most`. The kernels change their ways at thresholds: every power of 2 is as likely."""
    exponent = draw(st.integers(0, most.bit_length() - 1))
    return draw(st.integers(2**exponent, min(most, 2 ** (exponent + 1) - 1)))


@st.composite
def _shapes(draw, rank):
    left, shape = MOST_ELEMENTS, [1] * rank
    for i in draw(st.permutations(range(rank))):
        shape[i] = draw(_sizes(min(left, LARGEST_SIZE)))
        left //= shape[i]
    return tuple(shape)


@st.composite
def group_norms(draw):
    """Shapes of every rank with the channels on any axis, in any whole number of groups."""
    rank = draw(st.integers(2, 5))
    shape = (draw(st.integers(1, 3)), *draw(_shapes(rank - 1)))
    axis = draw(st.integers(1, rank - 1))
    most = math.prod(shape[1:]) // SMALLEST_SUM
    groups = [g for g in range(1, min(shape[axis], most) + 1) if shape[axis] % g == 0]
    assume(groups)
    return GroupNormCase(shape, axis, draw(st.sampled_from(groups)))


@st.composite
def kernels(draw):
    """Kernels of every rank with the output channels on any axes, in any order."""
    rank = draw(st.integers(2, 5))
    shape = draw(_shapes(rank))
    count = draw(st.integers(1, rank - 1))
    axis = tuple(draw(st.permutations(range(rank)))[:count])
    assume(math.prod(shape) // math.prod(shape[i] for i in axis) >= SMALLEST_SUM)
    return KernelCase(shape, axis)
