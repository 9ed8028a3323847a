"""Times the fused layers, the stock computations, and the BatchNorm that they replace."""

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
    """A computation in several versions.

    Attributes:
        name: what is computed.
        shape: of each input.
        inputs: number of inputs.
        stock: from the inputs to the output, in stock Keras or TensorFlow.
        fused: the same with this package.
        batch_norm: the same with BatchNorm in training mode, in stock Keras; None for a computation
            without a normalization.
    """

    name: str
    shape: tuple[int, ...]
    inputs: int
    stock: Callable[..., tf.Tensor]
    fused: Callable[..., tf.Tensor]
    batch_norm: Callable[..., tf.Tensor] | None = None


def run(shapes: list[tuple[int, ...]], groups: int, repeats: int) -> dict[str, Any]:
    """Times every case and prints a table.

    Args:
        shapes: inputs of GroupNormalization, channels last.
        groups: divides the channels of every shape.
        repeats: timings of each computation.

    Returns:
        `environment`, `groups`, `repeats` and `rows`: `name`, `shape`, `backward` (whether the
        gradient of all inputs and parameters is timed too), `stock_ms`, `fused_ms`,
        `batch_norm_ms` (medians; the last is None without a normalization), `ratio` (stock over
        fused) and `batch_norm_ratio` (BatchNorm over fused).
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
        stock_ms, fused_ms, *batch_norm = _time(case, backward, repeats)
        batch_norm_ms = batch_norm[0] if batch_norm else None
        rows.append(
            {
                "name": case.name,
                "shape": list(case.shape),
                "backward": backward,
                "stock_ms": stock_ms,
                "fused_ms": fused_ms,
                "batch_norm_ms": batch_norm_ms,
                "ratio": stock_ms / fused_ms,
                "batch_norm_ratio": batch_norm_ms and batch_norm_ms / fused_ms,
            }
        )
    console.print(_table(rows))
    return {"environment": environment, "groups": groups, "repeats": repeats, "rows": rows}


def _group_norm_cases(shape: tuple[int, ...], groups: int) -> list[Case]:
    plain = keras.layers.GroupNormalization(groups)
    plain.build(shape)
    batch = keras.layers.BatchNormalization()
    batch.build(shape)

    def fused(activation: str | None = None) -> layers.GroupNormalization:
        layer = layers.GroupNormalization(groups, activation=activation)
        layer.build(shape)
        return layer

    relu, silu = keras.activations.relu, keras.activations.silu
    return [
        Case("GroupNorm", shape, 1, plain, fused(), lambda x: batch(x, training=True)),
        Case(
            "GroupNorm+SiLU",
            shape,
            1,
            lambda x: silu(plain(x)),
            fused("silu"),
            lambda x: silu(batch(x, training=True)),
        ),
        Case(
            "GroupNorm+add+ReLU",
            shape,
            2,
            lambda x, residual: relu(plain(x) + residual),
            fused("relu"),
            lambda x, residual: relu(batch(x, training=True) + residual),
        ),
    ]


def _standardize_case(shape: tuple[int, ...]) -> Case:
    return Case("StandardizeWeights", shape, 1, stock.standardize_weights, ops.standardize_weights)


def _time(case: Case, backward: bool, repeats: int) -> list[float]:
    """Returns the median milliseconds of the versions of a case in their order.

    They take turns.
    """
    versions = filter(None, (case.stock, case.fused, case.batch_norm))
    functions = [_graph(function, backward) for function in versions]
    times: list[list[float]] = [[] for _ in functions]
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
    return [1e3 * statistics.median(seconds[WARM_UP:]) for seconds in times]


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
    table = Table(
        title="Milliseconds per call (median), and ratios to the fused layer",
        caption="BN: the same with BatchNorm in training mode",
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in ("computation", "shape", "pass"):
        table.add_column(column)
    for column in ("fused", "stock", "ratio", "BN", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        batch_norm = ["-", ""]
        if row["batch_norm_ms"] is not None:
            batch_norm = [f"{row['batch_norm_ms']:.3f}", f"{row['batch_norm_ratio']:.2f}x"]
        table.add_row(
            row["name"].replace("GroupNorm", "GN").replace("StandardizeWeights", "WS"),
            "x".join(map(str, row["shape"])),
            "fwd + bwd" if row["backward"] else "fwd",
            f"{row['fused_ms']:.3f}",
            f"{row['stock_ms']:.3f}",
            f"{row['ratio']:.2f}x",
            *batch_norm,
        )
    return table
