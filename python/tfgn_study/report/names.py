"""What the report calls the normalizations."""

from __future__ import annotations

from collections.abc import Sequence

from ..norms import norm_of

#: By the name on the command line.
LABELS = {
    "bn": "BN",
    "bn+precise": "BN precise",
    "bn+renorm": "BN renorm",
    "bn+frozen": "BN frozen",
    "bn+accumulate": "BN accumulated",
    "ln": "LN",
    "in": "IN",
    "gn": "GN",
    "gn+ws": "GN + WS",
    "gn+pn": "GN + PN",
    "bcn+ws": "BCN + WS",
    "frn": "FRN",
    "evonorm-s0": "EvoNorm-S0",
    "ws": "WS alone",
    "nf": "NF",
    "none": "no norm",
}


def errs(task: str, verdict: str, norms: int) -> str:
    """Returns `makes fewer errors`, as is said of one or several norms.

    Args:
        task: a key of `networks.TASKS`.
        verdict: "fewer" or "more".
        norms: number of norms.
    """
    if task == "classification":
        return f"{'makes' if norms == 1 else 'make'} {verdict} errors"
    which = "lower" if verdict == "fewer" else "higher"
    return f"{'has' if norms == 1 else 'have'} a {which} error"


def label(norm: str) -> str:
    """Returns what the report calls a norm of the command line, as in `GN with 4 groups`."""
    name, _, groups = norm.partition(":")
    if not groups:
        return LABELS[name]
    unit, _, count = groups.partition("=")
    if unit == "groups":
        return f"{LABELS[name]} with {count} group{'' if count == '1' else 's'}"
    return f"{LABELS[name]} with {count} channel{'' if count == '1' else 's'} per group"


def reference_of(norms: Sequence[str]) -> str:
    """Returns the norm to which the others are compared: `bn`, or the first without it."""
    return "bn" if "bn" in norms else norms[0]


def listed(parts: Sequence[str], word: str = "and") -> str:
    """Returns `a`, `a and b`, or `a, b and c`."""
    *others, last = parts
    return f"{', '.join(others)} {word} {last}" if others else last


def sizes_text(sizes: Sequence[int]) -> str:
    """Returns `4`, `4 and 16`, or `4 to 64` for ascending batch sizes."""
    if len(sizes) > 2:
        return f"{sizes[0]} to {sizes[-1]}"
    return " and ".join(map(str, sizes))


def kinds(norms: Sequence[str]) -> list[str]:
    """Returns the keys of `NORMS` that occur among norms of the command line, each once."""
    return list(dict.fromkeys(norm_of(norm) for norm in norms))
