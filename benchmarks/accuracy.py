"""Accuracy at means up to 1e4: required of our contenders, reported for the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from tfgn_cli._processes import WorkerError

from tests.support import reference

from .cases import SCALING, Norm
from .inputs import draw
from .rounds import Workers

MEANS = (0.0, 1e2, 1e3, 1e4)
CASES = (SCALING["conv1_pooled"], SCALING["24_channels"])
DTYPES = ("float32", "bfloat16", "float16")
OURS = ("kernel", "op")
OTHERS = ("keras", "keras jit", "torch", "flax")
GRADIENTS = ("dx", "dgamma", "dbeta")


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The errors of one contender against float64.

    Attributes:
        error: the largest absolute error of y.
        excess: the largest error of y over its bound.
        gradient_excess: the largest error of a gradient, in norm, over its bound.
        bound: the largest bound of an element of y.
    """

    contender: str
    shape: tuple[int, ...]
    dtype: str
    mean: float
    error: float
    excess: float
    gradient_excess: float
    bound: float

    @property
    def held(self) -> bool:
        """Whether all errors are within their bounds. NaN is not."""
        return self.excess <= 1 and self.gradient_excess <= 1


def cases() -> list[tuple[Norm, float]]:
    """Returns all pairs of a case and a mean."""
    return [
        (dataclasses.replace(case, dtype=dtype, backward=True), mean)
        for case in CASES
        for dtype in DTYPES
        for mean in MEANS
    ]


def evaluate(
    case: Norm, mean: float, workers: Workers, failed: Callable[[str, str], None]
) -> list[Accuracy]:
    """Runs every contender once.

    Args:
        case: a case with `backward` set.
        mean: the mean of x, whose standard deviation is 1 before it is rounded to its dtype.
        workers: the processes that run the contenders.
        failed: called with the name of each contender that cannot run, and the error message.
    """
    arrays = draw(case, seed=0, mean=mean)
    expected = reference.group_norm(
        arrays["x"], arrays["gamma"], arrays["beta"], None, groups=case.groups, dy=arrays["dy"]
    )
    asked = [name for name in (*OURS, *OTHERS) if workers.of(name)]
    results = []
    for contender in asked:
        try:
            outputs = workers.of(contender).call("evaluate", contender, case, arrays)
        except WorkerError as error:
            failed(contender, error.sentence)
            continue
        results.append(_compare(contender, case, mean, arrays, outputs, expected))
    return results


def _compare(contender, case, mean, arrays, outputs, expected) -> Accuracy:
    y, *gradients = (np.asarray(output, np.float64) for output in outputs)
    offset = reference.offset_in_deviations(expected, case.shape, case.axis)
    bound = reference.value_bound(expected.y, case.dtype, offset=offset, scale=arrays["gamma"])
    error = np.abs(y - expected.y)

    excesses = []
    for name, actual in zip(GRADIENTS, gradients, strict=True):
        exact = expected.gradients[name.removeprefix("d")]
        stored_as = case.dtype if name == "dx" else "float32"
        allowed = reference.gradient_bound(
            exact, case.dtype, offset=offset.max(), stored_as=stored_as
        )
        deviation = reference.norm(actual - exact)
        excesses.append(deviation / allowed if allowed else np.inf if deviation else 0.0)
    return Accuracy(
        contender,
        case.shape,
        case.dtype,
        mean,
        error=float(error.max()),
        excess=float((error / bound).max()),
        gradient_excess=float(np.max(excesses)),
        bound=float(bound.max()),
    )


def violations(results: list[Accuracy]) -> list[str]:
    """Returns a sentence for each result of ours that exceeds a bound."""
    return [
        f"{r.contender} on {'x'.join(map(str, r.shape))} {r.dtype} at mean {r.mean:g}: y at "
        f"{r.excess:.3g}, gradients at {r.gradient_excess:.3g} times the bound"
        for r in results
        if r.contender in OURS and not r.held
    ]
