"""Times the fused layers and the stock computations that they replace."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tensorflow_groupnorm import layers, ops, stock
from tfgn_study.environment import collect

#: Kernels of ResNet-50: a 3x3 convolution of the third stage and the widest 1x1 convolution.
KERNELS = ((3, 3, 256, 256), (1, 1, 1024, 2048))

#: Calls before the timed ones: tracing, then memory allocation.
WARM_UP = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """A computation in two versions.

    Attributes:
        name: what is computed.
        shape: of each input.
        inputs: number of inputs.
        stock: from the inputs to the output, in stock Keras or TensorFlow.
        fused: the same with this package.
    """

    name: str
    shape: tuple[int, ...]
    inputs: int
    stock: Callable[..., tf.Tensor]
    fused: Callable[..., tf.Tensor]


def run(shapes: list[tuple[int, ...]], groups: int, repeats: int) -> dict[str, Any]:
    """Times every case and prints a table.

    Args:
        shapes: inputs of GroupNormalization, channels last.
        groups: divides the channels of every shape.
        repeats: timings of each computation.

    Returns:
        `environment`, `groups`, `repeats` and `rows`: `name`, `shape`, `backward` (whether the
        gradient of all inputs and parameters is timed too), `stock_ms`, `fused_ms` (medians) and
        `ratio` (stock over fused).
    """
    environment = collect()
    console = Console(markup=False)  # Paths may hold brackets.
    if not environment["fused"]:
        console.print(f"The fused ops are off: {environment['reason']}", style="bold")
    cases = [case for shape in shapes for case in _group_norm_cases(shape, groups)]
    cases += [_standardize_case(shape) for shape in KERNELS]
    jobs = [(case, backward) for case in cases for backward in (False, True)]
    rows = []
    for case, backward in track(jobs, "timing", console=console, transient=True):
        stock_ms, fused_ms = _time(case, backward, repeats)
        rows.append(
            {
                "name": case.name,
                "shape": list(case.shape),
                "backward": backward,
                "stock_ms": stock_ms,
                "fused_ms": fused_ms,
                "ratio": stock_ms / fused_ms,
            }
        )
    console.print(_table(rows))
    return {"environment": environment, "groups": groups, "repeats": repeats, "rows": rows}


def _group_norm_cases(shape: tuple[int, ...], groups: int) -> list[Case]:
    plain = keras.layers.GroupNormalization(groups)
    plain.build(shape)

    def fused(activation: str | None = None) -> layers.GroupNormalization:
        layer = layers.GroupNormalization(groups, activation=activation)
        layer.build(shape)
        return layer

    relu, silu = keras.activations.relu, keras.activations.silu
    return [
        Case("GroupNorm", shape, 1, plain, fused()),
        Case("GroupNorm+SiLU", shape, 1, lambda x: silu(plain(x)), fused("silu")),
        Case(
            "GroupNorm+add+ReLU",
            shape,
            2,
            lambda x, residual: relu(plain(x) + residual),
            fused("relu"),
        ),
    ]


def _standardize_case(shape: tuple[int, ...]) -> Case:
    return Case("StandardizeWeights", shape, 1, stock.standardize_weights, ops.standardize_weights)


def _time(case: Case, backward: bool, repeats: int) -> tuple[float, float]:
    """Returns the median milliseconds of `case.stock` and `case.fused`, which take turns."""
    functions = [_graph(function, backward) for function in (case.stock, case.fused)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(WARM_UP + repeats):
        for function, seconds in zip(functions, times, strict=True):
            # Fresh inputs are where a network finds them: not in the cache of the last call.
            inputs = [tf.random.normal(case.shape) for _ in range(case.inputs)]
            upstream = tf.random.normal(case.shape)
            tf.test.experimental.sync_devices()
            start = time.perf_counter()
            function(upstream, *inputs)
            tf.test.experimental.sync_devices()
            seconds.append(time.perf_counter() - start)
    stock_ms, fused_ms = (1e3 * statistics.median(seconds[WARM_UP:]) for seconds in times)
    return stock_ms, fused_ms


def _graph(function: Callable[..., tf.Tensor], backward: bool) -> Callable[..., Any]:
    @tf.function
    def forward(upstream: tf.Tensor, *inputs: tf.Tensor) -> tf.Tensor:
        return function(*inputs)

    @tf.function
    def forward_and_backward(
        upstream: tf.Tensor, *inputs: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
        return y, tape.gradient(y, [*inputs, *tape.watched_variables()], upstream)

    return forward_and_backward if backward else forward


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Milliseconds per call (median)", box=box.SIMPLE)
    for column in ("computation", "shape", "pass"):
        table.add_column(column)
    for column in ("stock", "fused", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            "x".join(map(str, row["shape"])),
            "fwd + bwd" if row["backward"] else "fwd",
            f"{row['stock_ms']:.3f}",
            f"{row['fused_ms']:.3f}",
            f"{row['ratio']:.2f}x",
        )
    return table
