"""The tables of the section `export`: latencies and numbers of nodes."""

from __future__ import annotations

from ..cases import Inference
from ..results import Results
from ..sections import Entry
from ..tables import Verdicts, markdown, missed, number, over
from .contenders import (
    ANY,
    CONTENDERS,
    FROM_TORCH,
    FUSED,
    FUSED_CPP,
    OWN_TARGETS,
    PRIMITIVE,
    in_runtime,
)

#: The fused SavedModel, in both of the languages that run one.
SAVED_MODEL = (FUSED, FUSED_CPP)
#: The latency of the file for a runtime over those of other files in the same runtime.
LIMITS = {PRIMITIVE: 0.8, FROM_TORCH: 1.02}
#: The nodes of a file over those of PyTorch's.
NODES_LIMIT = 1.3


def table(results: Results, verdicts: Verdicts) -> str:
    """A table for each network and batch."""
    parts = [
        f"**{case.text}**\n\n{_table(results, verdicts, case)}" for case in results.cases("export")
    ]
    return "\n\n".join(parts)


def _table(results: Results, verdicts: Verdicts, case: Inference) -> str:
    ns = {name: results.ns("export", name, case) for name in CONTENDERS}
    nodes = {name: results.nodes.get(Entry(name, case)) for name in CONTENDERS}
    rows = []
    for name in CONTENDERS:
        verdict = _verdict(verdicts, name, ns, nodes)
        count = nodes[name]
        rows.append(
            [name, number(over(ns[name], 1e6), 1), number(over(ns[name], ns[FUSED]))]
            + ["-" if count is None else str(count), verdict]
        )
    return markdown(["", "ms", "over the fused SavedModel", "nodes", "verdict"], rows)


def _verdict(verdicts: Verdicts, name: str, ns: dict, nodes: dict) -> str:
    if name == FUSED:
        ours = [ns[other] for other in SAVED_MODEL if ns[other]]
        theirs = [ns[other] for other in ns if other not in SAVED_MODEL and ns[other]]
        ratio = over(min(ours, default=None), min(theirs, default=None))
        fastest = missed(ratio, 1, "not the fastest")
        return verdicts.judge("export: the fused SavedModel is the fastest", fastest)
    runtime, _, file = name.partition(", ")
    if runtime not in OWN_TARGETS or file not in (OWN_TARGETS[runtime], ANY):
        return ""
    theirs = nodes[in_runtime(runtime, FROM_TORCH)]
    misses = missed(over(nodes[name], theirs), NODES_LIMIT, f"{NODES_LIMIT:g} of torch's nodes")
    if file == ANY:
        return verdicts.judge("export: nodes of the target onnx", misses)
    for other, limit in LIMITS.items():
        ratio = over(ns[name], ns[in_runtime(runtime, other)])
        misses += missed(ratio, limit, f"{limit:g} of {other}")
    return verdicts.judge(f"export: file for {runtime}", misses)
