"""The normalizations of a study that `tfgn.models` does not have, in stock operations.

A new one is a file here, a case of `of`, an entry of `norms.NORMS` and a style in `report.plots`.
"""

from __future__ import annotations

from typing import Any

from ...config import RunConfig
from .batch_channel import BatchChannel
from .batch_norm import BatchNorm, BatchRenormalization, FreezableBatchNormalization
from .evonorm import EvoNorm
from .filter_response import FilterResponse
from .normalizer_free import NormalizerFree
from .proxy import ProxyNormalization


def of(config: RunConfig) -> Any:
    """Returns the argument `norm` of the networks of `tfgn.models` for a run.

    Args:
        config: the run; its `norm`, `groups` and `group_size` count.

    Returns:
        `"gn"`, `"bn"`, `None`, or a function in the place of a normalization and its activation.
    """
    match config.norm:
        case "bn" | "bn+precise" | "bn+accumulate":
            return "bn"
        case "bn+renorm":
            return BatchNorm(BatchRenormalization)
        case "bn+frozen":
            return BatchNorm(FreezableBatchNormalization)
        case "ln" | "in" | "gn" | "gn+ws":
            return "gn"
        case "gn+pn":
            return ProxyNormalization(config.groups, config.group_size)
        case "bcn+ws":
            return BatchChannel(config.groups, config.group_size)
        case "frn":
            return FilterResponse()
        case "evonorm-s0":
            return EvoNorm(config.groups, config.group_size)
        case "nf":
            return NormalizerFree()
        case "ws" | "none":
            return None
    raise ValueError(f"no such norm: {config.norm!r}")
