"""Shapes as data, for tests and benchmarks."""

import math
import random
from typing import NamedTuple

ELEMENT_TYPES = ("float16", "bfloat16", "float32", "float64")
ACTIVATIONS = ("linear", "relu", "silu")


def parameter_dtype(dtype):
    """Returns the dtype of gamma, beta, gain and the statistics beside elements of a dtype."""
    return "float64" if dtype == "float64" else "float32"


class GroupNormCase(NamedTuple):
    shape: tuple
    axis: int
    groups: int


class KernelCase(NamedTuple):
    shape: tuple
    axis: tuple


# Every rank and place of the channel axis, odd channel counts, extreme group counts.
GROUP_NORM = {
    "dense": GroupNormCase((5, 32), -1, 8),
    "dense_batch1": GroupNormCase((1, 24), 1, 3),
    "sequence_last": GroupNormCase((3, 9, 30), -1, 5),
    "sequence_first": GroupNormCase((3, 30, 9), 1, 5),
    "image_last": GroupNormCase((2, 5, 7, 24), -1, 3),
    "image_first": GroupNormCase((2, 24, 5, 7), 1, 3),
    "image_middle": GroupNormCase((2, 5, 24, 7), 2, 3),
    "image_batch1": GroupNormCase((1, 6, 5, 64), -1, 32),
    "image_first_batch1": GroupNormCase((1, 64, 6, 5), -3, 32),
    "volume_last": GroupNormCase((2, 3, 4, 5, 16), 4, 4),
    "volume_first": GroupNormCase((2, 16, 3, 4, 5), -4, 4),
    "volume_middle": GroupNormCase((2, 3, 16, 4, 5), 2, 4),
    "layer_norm": GroupNormCase((3, 4, 5, 12), -1, 1),
    "instance_norm_last": GroupNormCase((3, 4, 5, 12), -1, 12),
    "instance_norm_first": GroupNormCase((3, 12, 4, 5), 1, 12),
    "seven_channels": GroupNormCase((2, 6, 6, 7), -1, 1),
    "one_channel_last": GroupNormCase((3, 8, 9, 1), -1, 1),
    "one_channel_first": GroupNormCase((3, 1, 8, 9), 1, 1),
    "long_runs_middle": GroupNormCase((2, 3, 6, 300), 2, 3),
    "longer_runs_middle": GroupNormCase((1, 17, 4, 260), 2, 2),
    "short_runs_middle": GroupNormCase((2, 18, 6, 20), 2, 3),
    "unit_axes": GroupNormCase((2, 1, 1, 40, 1), 3, 10),
}

# Lengths around the vector widths, in channels and in space.
VECTOR_EDGES = {
    **{f"last_c{c}_g1": GroupNormCase((2, 5, c), -1, 1) for c in (15, 16, 17, 31, 33, 63, 65)},
    **{f"last_c{c}_gc": GroupNormCase((2, 37, c), -1, c) for c in (3, 15, 17, 33, 65)},
    **{f"first_b{b}": GroupNormCase((2, 6, b), 1, 2) for b in (1, 15, 16, 17, 63, 64, 65, 129)},
}

LARGE = {
    "wide_groups": GroupNormCase((2, 3, 2, 4096), -1, 2),
    "wide_group_of_one_sample": GroupNormCase((1, 3000), -1, 1),
    "channels_across_tiles": GroupNormCase((2, 2, 200, 12), 2, 1),
    "deep_features": GroupNormCase((2, 7, 7, 2048), -1, 32),
    "large_image_last": GroupNormCase((1, 150, 200, 24), -1, 3),
    "large_image_first": GroupNormCase((1, 24, 150, 200), 1, 3),
    "large_image_one_channel_groups": GroupNormCase((1, 150, 200, 24), -1, 24),
    "many_samples": GroupNormCase((300, 3, 3, 8), -1, 2),
    # Rows are folded (64 and 32 channels are few) and cut into chunks: the last has all the rows of
    # a chunk and a part of one more.
    "partial_row_behind_full_chunks": GroupNormCase((2, 25, 25, 64), -1, 32),
    "narrow_partial_row_behind_full_chunks": GroupNormCase((1, 1045, 32), -1, 8),
}

# oneDNN's test shapes of group normalization (its tests/benchdnn/inputs/gnorm/shapes_ci and
# shapes_sd), channels first: batch, channels, space; groups.
ONEDNN = {
    f"{'x'.join(map(str, shape))}_g{groups}": GroupNormCase(shape, 1, groups)
    for groups, shape in (
        *((2, (2, 2, 4)), (7, (2, 7, 3, 4)), (5, (2, 5, 9, 1, 10))),
        *((1, (2, 2, 4)), (2, (2, 8, 3, 4)), (5, (2, 10, 9, 1, 10)), (5, (2, 40, 2, 1, 5))),
        *((5, (2, 80, 2, 1, 5)), (1, (1, 128, 2, 2))),
        *((10, (2, 320, 2, 2)), (20, (2, 640, 2, 2)), (40, (2, 1280, 2, 2)), (40, (2, 1280, 8, 8))),
        *(
            (80, (2, 2560, 8, 8)),
            (80, (2, 2560, 2, 2)),
            (60, (2, 1920, 2, 2)),
            (30, (2, 960, 2, 2)),
        ),
        *((16, (1, 512, 2, 2)), (8, (1, 256, 2, 2)), (8, (1, 256, 4, 4)), (4, (1, 128, 2, 2))),
        (32, (2, 320, 2, 2)),
    )
}

EMPTY = {
    "no_samples": GroupNormCase((0, 4, 5, 8), -1, 2),
    "no_rows": GroupNormCase((2, 0, 5, 8), -1, 2),
    "no_columns_first": GroupNormCase((2, 8, 5, 0), 1, 2),
    "no_channels": GroupNormCase((2, 4, 5, 0), -1, 2),
}

KERNELS = {
    "dense": KernelCase((20, 10), (-1,)),
    "dense_transposed": KernelCase((10, 20), (0,)),
    "conv1d": KernelCase((5, 8, 12), (-1,)),
    "conv2d": KernelCase((3, 3, 16, 8), (-1,)),
    "conv2d_odd": KernelCase((3, 3, 5, 33), (3,)),
    "conv2d_pointwise": KernelCase((1, 1, 24, 17), (-1,)),
    "conv2d_oihw": KernelCase((8, 4, 3, 3), (0,)),
    "conv2d_transpose": KernelCase((3, 3, 12, 16), (2,)),
    "conv3d": KernelCase((3, 2, 3, 4, 6), (-1,)),
    "depthwise": KernelCase((3, 3, 8, 2), (2, 3)),
    "depthwise_single": KernelCase((3, 3, 17, 1), (-1, -2)),
    "first_and_last": KernelCase((4, 3, 5, 6), (0, -1)),
    "interleaved": KernelCase((3, 4, 5, 6), (1, 3)),
    "interleaved_rank5": KernelCase((2, 3, 4, 3, 5), (1, 3)),
    "interleaved_unordered": KernelCase((2, 3, 4, 3, 5), (3, 0)),
    "one_output": KernelCase((3, 3, 40, 1), (-1,)),
    "long_fan_in": KernelCase((3, 3, 512, 4), (-1,)),
}

EMPTY_KERNELS = {
    "no_outputs": KernelCase((3, 3, 4, 0), (-1,)),
    "no_inputs": KernelCase((3, 3, 0, 4), (-1,)),
}


# Sizes are as likely from 1 to 2 as from 1,000 to 2,000, so that rows and runs of every length come
# by: the kernels cut them into vectors, tiles, chunks and threads by thresholds. What is summed has
# 8 elements or more: of fewer, the terms of the gradient cancel, and no relative bound holds.
_MOST_ELEMENTS = 40_000
_SMALLEST_SUM = 8


def _random_shape(choose, rank):
    left, sizes = _MOST_ELEMENTS, {}
    for i in choose.sample(range(rank), rank):
        sizes[i] = min(left, math.floor(2 ** choose.uniform(0, 12)))
        left = max(1, left // sizes[i])
    return tuple(sizes[i] for i in range(rank))


def random_group_norm(seed, count):
    """Shapes of every rank with the channels on any axis, in any whole number of groups."""
    choose = random.Random(seed)
    while count > 0:
        rank = choose.randint(2, 5)
        shape = (choose.randint(1, 3), *_random_shape(choose, rank - 1))
        axis = choose.randrange(1, rank)
        most = math.prod(shape[1:]) // _SMALLEST_SUM
        groups = [g for g in range(1, min(shape[axis], most) + 1) if shape[axis] % g == 0]
        if groups:
            count -= 1
            yield GroupNormCase(shape, axis, choose.choice(groups))


def random_kernels(seed, count):
    """Kernels of every rank with the output channels on any axes."""
    choose = random.Random(seed)
    while count > 0:
        rank = choose.randint(2, 5)
        shape = _random_shape(choose, rank)
        axis = tuple(choose.sample(range(rank), choose.randint(1, rank - 1)))
        if math.prod(shape) // math.prod(shape[i] for i in axis) >= _SMALLEST_SUM:
            count -= 1
            yield KernelCase(shape, axis)
