"""The report of a conversion, layer by layer."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

REPLACED, FUSED, KEPT = "replaced", "fused", "kept"
PAIRED, NOT_PAIRED = "paired", "not paired"
_SHOWN_NAMES = 2

#: The end of the report of a conversion that changes outputs.
FINE_TUNE = "Fine-tune before use: the new model computes other outputs with the same weights."


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """What a conversion did with one layer.

    Attributes:
        name: the name of the layer, after those of the models and layers that contain it, separated
            by slashes.
        type: the name of its class.
        action: `"replaced"`, `"fused"` (absorbed by a replaced normalization) or `"kept"`. With
            `save_memory`, a GroupNormalization of the new model is also `"paired"` (with the layers
            that read its output) or `"not paired"`.
        result: the replacement; empty for a layer that was kept or not paired.
        reason: why it was kept or not paired, or how the result differs from what was asked for;
            may be empty.
    """

    name: str
    type: str
    action: str
    result: str = ""
    reason: str = ""


@dataclasses.dataclass
class ConversionReport:
    """What a conversion replaced, fused and kept, and why. `str()` gives a table.

    Attributes:
        model: name of the model.
        changes: one `LayerChange` for each normalization, layer with a kernel, fused addition or
            activation, and activation behind a replaced normalization that the fused op does not
            have; with `save_memory` another one for each GroupNormalization. Layers of other kinds
            are copied and not listed.
        dropped: the weights that the new model does not have, such as moving statistics: a dict
            from the name of a weight to the number of layers that had it.
        notes: sentences on other limitations of the new model.
        outputs_change: whether the outputs of the new model differ from those of the model, so that
            it has to be fine-tuned.
    """

    model: str
    changes: list[LayerChange] = dataclasses.field(default_factory=list)
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    outputs_change: bool = False

    def count(self, action: str) -> int:
        """Returns for how many layers the action was `"replaced"`, `"fused"`, `"kept"`, ..."""
        return sum(change.action == action for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as dicts and lists that JSON can store."""
        return dataclasses.asdict(self)

    def table(self, every_layer: bool = False) -> str:
        """Returns the report as text.

        Args:
            every_layer: whether each layer gets a line of its own. By default, layers with the same
                class, result and reason share a line.
        """
        actions = [REPLACED, FUSED, KEPT]
        if self.count(PAIRED) or self.count(NOT_PAIRED):
            actions += [PAIRED, NOT_PAIRED]
        counts = ", ".join(f"{self.count(action)} {action}" for action in actions)
        lines = [f"Conversion of {self.model}: {counts}"]
        for action in actions:
            changes = [change for change in self.changes if change.action == action]
            lines += _lines(action, changes, every_layer)
        if self.dropped:
            weights = ", ".join(
                f"{name} of {n} layer{'s' * (n > 1)}" for name, n in self.dropped.items()
            )
            lines.append(f"not carried over: {weights}")
        return "\n".join(lines + self.notes + [FINE_TUNE] * self.outputs_change)

    def __str__(self) -> str:
        return self.table()


def _lines(action: str, changes: list[LayerChange], every_layer: bool) -> list[str]:
    def alike(change: LayerChange) -> tuple[str, str, str]:
        return (change.type, change.result, change.reason)

    rows = []
    if every_layer:
        rows = [(change.name, *alike(change)) for change in changes]
    else:
        groups: dict[tuple[str, str, str], list[str]] = {}
        for change in changes:
            groups.setdefault(alike(change), []).append(change.name)
        rows = [(_names(names), *key) for key, names in groups.items()]
    texts = [
        (f"{kind} -> {result}" if result else kind, names, reason)
        for names, kind, result, reason in rows
    ]
    width = max((len(kind) for kind, *_ in texts), default=0)
    lines = [action] if texts else []
    for kind, names, reason in texts:
        lines.append(f"  {kind:{width}}  {names}" + (f": {reason}" if reason else ""))
    return lines


def _names(names: list[str]) -> str:
    shown = ", ".join(itertools.islice(names, _SHOWN_NAMES))
    more = len(names) - _SHOWN_NAMES
    return f"{len(names):4} x  {shown}" + (f" and {more} more" if more > 0 else "")
