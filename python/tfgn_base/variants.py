"""The published definitions of weight standardization, each stated once."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Variant:
    """One published weight standardization.

    Attributes:
        epsilon: the default epsilon, as published.
        epsilon_mode: where epsilon enters `rstd`: `"add_to_variance"` is
            `1 / sqrt(var + epsilon)`, `"add_to_stddev"` is `1 / (sqrt(var) + epsilon)`,
            `"clamp_variance"` is `1 / sqrt(max(var, epsilon))`.
        ddof: the variance divides by `fan_in - ddof`.
        scale_by_fan_in: whether to multiply the result by `1 / sqrt(fan_in)`.
        epsilon_over_fan_in: whether epsilon bounds `var * fan_in` instead of `var`.
        source: the repository that publishes the formula.
    """

    epsilon: float
    epsilon_mode: str = "add_to_variance"
    ddof: int = 0
    scale_by_fan_in: bool = False
    epsilon_over_fan_in: bool = False
    source: str = ""


VARIANTS = {
    "bit": Variant(1e-10, source="github.com/google-research/big_transfer"),
    "timm": Variant(1e-6, source="github.com/huggingface/pytorch-image-models, StdConv2d"),
    "qiao": Variant(
        1e-5, "add_to_stddev", ddof=1, source="github.com/joe-siyuan-qiao/WeightStandardization"
    ),
    "qiao_tf": Variant(
        1e-5, "add_to_stddev", source="github.com/joe-siyuan-qiao/WeightStandardization"
    ),
    "nfnet": Variant(
        1e-4,
        "clamp_variance",
        scale_by_fan_in=True,
        epsilon_over_fan_in=True,
        source="github.com/google-deepmind/deepmind-research, nfnets",
    ),
    "timm_scaled": Variant(
        1e-6,
        scale_by_fan_in=True,
        source="github.com/huggingface/pytorch-image-models, ScaledStdConv2d",
    ),
}


def check_variant(variant: str, epsilon: float | None = None) -> Variant:
    """Returns the `Variant` of that name.

    Args:
        variant: a key of `VARIANTS`.
        epsilon: the epsilon to use with it, or `None` for its own.

    Returns:
        The `Variant`.

    Raises:
        ValueError: if there is no such variant, or if `epsilon` is not a finite number >= 0.
    """
    if not isinstance(variant, str) or variant not in VARIANTS:
        names = ", ".join(repr(name) for name in VARIANTS)
        raise ValueError(f"`variant` must be one of {names}. Received: variant={variant!r}")
    if epsilon is not None and not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(
            "`epsilon` must be a finite number >= 0, or None for the variant's own "
            f"({VARIANTS[variant].epsilon}). Received: epsilon={epsilon!r}"
        )
    return VARIANTS[variant]


def resolve(variant: str, epsilon: float | None, fan_in: Any) -> dict[str, Any]:
    """Returns the attributes of the StandardizeWeights op for a variant.

    Args:
        variant: a key of `VARIANTS`.
        epsilon: a number >= 0, or `None` for the variant's own.
        fan_in: the number of weights per output channel, as an int, or as a float tensor if it is
            not known yet.

    Returns:
        A dict with the keys `epsilon`, `epsilon_mode`, `ddof` and `scale`. Values that depend on a
        tensor `fan_in` are tensors.

    Raises:
        ValueError: see `check_variant`.
    """
    chosen = check_variant(variant, epsilon)
    epsilon = chosen.epsilon if epsilon is None else float(epsilon)
    if isinstance(fan_in, int):
        fan_in = max(fan_in, 1)  # An empty kernel has nothing to scale.
    return {
        "epsilon": epsilon / fan_in if chosen.epsilon_over_fan_in else epsilon,
        "epsilon_mode": chosen.epsilon_mode,
        "ddof": chosen.ddof,
        "scale": fan_in**-0.5 if chosen.scale_by_fan_in else 1.0,
    }
