"""Measures the kernels, a copy and torch.nn.GroupNorm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from ..cases import LADDER, LARGE_IMAGES, RESNET50
from .library import GroupNorm, Library

#: Rows of the table.
CASES = (
    *(case.with_batch(batch) for batch in (1, 2, 32) for case in RESNET50.values()),
    LADDER["unet"],
    *LARGE_IMAGES.values(),
)
QUICK_CASES = (RESNET50["conv1_pooled"], RESNET50["conv2"].with_batch(32))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
REPEATS = 11
#: The target fraction of a copy's bandwidth, by pass, for tensors of at least LARGE bytes.
TARGETS = {False: 0.80, True: 0.75}
LARGE = 64 << 20
#: The least time of a round of a captured graph in milliseconds, for accurate timing.
ROUND = 2.0


class Row(NamedTuple):
    """Times of one pass over one tensor, in microseconds."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    backward: bool
    nbytes: int  # the unavoidable traffic
    copy: float  # a copy of the same traffic
    ours: float
    torch_times: dict[str, float]

    @property
    def of_copy(self) -> float:
        """The bandwidth relative to a copy's."""
        return self.copy / self.ours

    @property
    def tensor_bytes(self) -> int:
        """The size of x in bytes."""
        return self.nbytes // (5 if self.backward else 2)


def rows(library: Library, quick: bool) -> Iterator[Row]:
    """Measures shape by shape."""
    for case in QUICK_CASES if quick else CASES:
        for dtype in DTYPES[:1] if quick else DTYPES:
            yield from _measure(library, case.shape, case.groups, dtype)


def time_of(calls: list[Callable[[], None]]) -> float:
    """Returns the median time of a call in microseconds. The calls take turns."""
    torch.cuda.synchronize()
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def replay(times: int) -> float:
        begin.record()
        for _ in range(times):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    replay(3)
    times = max(1, math.ceil(ROUND / max(replay(3) / 3, 1e-3)))
    return 1e3 * statistics.median(replay(times) / times for _ in range(REPEATS)) / len(calls)


def _sets(nbytes: int) -> int:
    """Returns the number of sets of tensors that exceed the caches in a round."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(1, min(64, math.ceil(4 * cache / nbytes)))


def _measure(
    library: Library, shape: tuple[int, ...], groups: int, dtype: torch.dtype
) -> Iterator[Row]:
    norm = GroupNorm(shape, len(shape) - 1, groups)
    nbytes = math.prod(shape) * torch.finfo(dtype).bits // 8
    sets = _sets(2 * nbytes)
    xs = [torch.randn(shape, device="cuda").to(dtype) for _ in range(sets)]
    dys = [torch.randn(shape, device="cuda").to(dtype) for _ in range(sets)]
    ys = [torch.empty_like(x) for x in xs]
    copy = time_of([lambda x=x, y=y: y.copy_(x) for x, y in zip(xs, ys, strict=True)])

    channels = shape[-1]
    gamma, beta = torch.ones(channels, device="cuda"), torch.zeros(channels, device="cuda")
    dgamma, dbeta = torch.empty_like(gamma), torch.empty_like(beta)
    saved = [torch.empty(shape[0], norm.groups, device="cuda") for _ in range(2)]
    workspace = library.workspace(norm, dtype)

    def forward(x, y):
        library.forward(norm, workspace, x, gamma, beta, None, y, *saved)

    def both(x, y, dy):
        forward(x, y)
        library.backward(norm, workspace, dy, x, gamma, beta, *saved, None, y, dgamma, dbeta, None)

    ours = time_of([lambda x=x, y=y: forward(x, y) for x, y in zip(xs, ys, strict=True)])
    ours_both = time_of(
        [lambda x=x, y=y, dy=dy: both(x, y, dy) for x, y, dy in zip(xs, ys, dys, strict=True)]
    )
    del ys
    torch_forward, torch_both = _torch_times(norm, dtype, xs, dys)
    yield Row(shape, dtype, False, 2 * nbytes, copy, ours, torch_forward)
    yield Row(shape, dtype, True, 5 * nbytes, 2.5 * copy, ours_both, torch_both)


def _torch_times(norm, dtype, xs, dys) -> tuple[dict[str, float], dict[str, float]]:
    """torch.nn.GroupNorm in both memory formats, eager and compiled."""
    layer = torch.nn.GroupNorm(norm.groups, norm.channels, device="cuda", dtype=dtype)
    forward, both = {}, {}
    for layout in ("channels_last", "contiguous"):
        # The same memory, or a copy with the channels in front.
        moved = [[t.movedim(-1, 1) for t in tensors] for tensors in (xs, dys)]
        if layout == "contiguous":
            moved = [[t.contiguous() for t in tensors] for tensors in moved]
        for mode in ("eager", "compiled"):
            name = f"{layout}, {mode}"
            try:
                times = _time_layer(layer, mode, *moved)
            except Exception as error:  # noqa: BLE001  A cell of the table, not the end of it.
                print(f"torch {name} on {norm.shape}: {type(error).__name__}: {error}"[:200])
                times = (math.nan, math.nan)
            forward[name], both[name] = times
    return forward, both


def _time_layer(layer, mode, xs, dys) -> tuple[float, float]:
    run = layer if mode == "eager" else torch.compile(layer)

    def forward(x):
        with torch.no_grad():
            run(x)

    parameters = list(layer.parameters())

    def both(x, dy):
        y = run(x.requires_grad_())
        torch.autograd.grad(y, [x, *parameters], dy)

    return (
        time_of([lambda x=x: forward(x) for x in xs]),
        time_of([lambda x=x, dy=dy: both(x.detach(), dy) for x, dy in zip(xs, dys, strict=True)]),
    )


def table(rows: list[Row]) -> str:
    """Bandwidths and ratios, a row each."""
    titles = ("copy GB/s", "ours GB/s", "of copy", "ours us")
    lines = [
        f"{'shape':24s} {'type':8s} {'pass':8s} {titles[0]:>9s} {titles[1]:>9s} {titles[2]:>7s} "
        f"{titles[3]:>8s}   torch us (times ours): channels_last, contiguous; eager/compiled"
    ]
    for row in rows:
        others = "  ".join(
            f"{time:8.1f} ({time / row.ours:5.2f}x)" for time in row.torch_times.values()
        )
        lines.append(
            f"{'x'.join(map(str, row.shape)):24s} {str(row.dtype).removeprefix('torch.'):8s} "
            f"{'both' if row.backward else 'forward':8s} {row.nbytes / row.copy / 1e3:9.0f} "
            f"{row.nbytes / row.ours / 1e3:9.0f} {row.of_copy:7.0%} {row.ours:8.1f}   "
            f"{others}"
        )
    return "\n".join(lines)


def verdicts(rows: list[Row]) -> list[str]:
    """Returns a sentence for each target that lists the rows that miss it."""
    sentences = []
    for backward, target in TARGETS.items():
        large = [r for r in rows if r.backward is backward and r.tensor_bytes >= LARGE]
        missed = [r for r in large if r.of_copy < target]
        name = "forward + backward" if backward else "forward"
        sentences.append(
            f"{name}, 64 MB and more: {len(large) - len(missed)} of {len(large)} rows reach "
            f"{target:.0%} of a copy{_named(missed)}"
        )
    behind = [r for r in rows if any(time < r.ours for time in r.torch_times.values())]
    sentences.append(
        f"ahead of torch.nn.GroupNorm in every form: {len(rows) - len(behind)} of {len(rows)} rows"
        f"{_named(behind)}"
    )
    return sentences


def _named(rows: list[Row]) -> str:
    if not rows:
        return ""
    return ", not " + ", ".join(
        f"{'x'.join(map(str, r.shape))} {str(r.dtype).removeprefix('torch.')} ({r.of_copy:.0%})"
        for r in rows
    )
