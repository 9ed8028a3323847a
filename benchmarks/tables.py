"""The tables of the report, with a verdict for each row that has a target."""

from __future__ import annotations

import collections
import dataclasses

from .accuracy import OURS
from .cases import SIZES, STEP_NORMS, STEPS, Norm, Step, Weights
from .results import Results
from .sections import FUSIONS, PASSES, STANDARDIZATIONS

PASS = {False: "forward", True: "forward + backward"}

#: Targets of the project, as multiples of the memory bound or of another contender.
SMALL_BYTES = 1 << 20
KERNEL_LIMITS = {False: 1.5, True: 1.7}
SMALL_LIMIT = 2.0
CHANNELS_FIRST_LIMITS = {False: 1.2, True: 1.7}
FLOOR_LIMITS = {False: 1.15, True: 1.25}
FUSION_LIMIT = 1.1
TYPE_LIMIT = 0.6
#: The cost of a byte of a tensor beyond the caches, over that in the smallest such tensor.
LINEAR_LIMIT = 1.25
MEMORY_BYTES = 1 << 26
WEIGHTS_LIMITS = {False: 1.5, True: 2.0}
#: The time of an op compiled by XLA over the same op in a graph.
JIT_LIMIT = 1.05
#: The time of our step over the others, in a graph (False) and compiled (True).
STEP_LIMITS = {False: {"bn": 1, "gn+ws": 0.72}, True: {"bn": 1, "gn+ws": 1}}

PEERS = ("keras", "keras jit", "fused bn", "torch")
COMPILED = ("op", "op jit", "keras jit", "keras")


class Verdicts:
    """Counts the rows that meet a target."""

    def __init__(self):
        self.rows: dict[str, list[bool]] = collections.defaultdict(list)

    def judge(self, target: str, misses: list[str]) -> str:
        """Records the verdict on a row and returns its text."""
        self.rows[target].append(not misses)
        return "met" if not misses else f"**missed**: {', '.join(dict.fromkeys(misses))}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Returns a table in Markdown. Columns between the first and last are right-aligned."""
    lines = [header, [":--", *["--:"] * (len(header) - 2), ":--"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shape_text(case: Norm) -> str:
    return "x".join(map(str, case.shape)) + (f", {case.groups} groups" * (case.groups != 32))


def _size(case: Norm) -> str:
    return f"{case.nbytes / 1e6:.3g}"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def over(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def _us(ns: float | None) -> str:
    return number(over(ns, 1e3), 0)


def of_pass(results: Results, section: str, backward: bool) -> list[Norm]:
    """Returns the cases of a section for one pass."""
    return [case for case in results.cases(section) if case.backward == backward]


def kernels(results: Results, verdicts: Verdicts, section: str, limits=KERNEL_LIMITS) -> str:
    """The kernels without TensorFlow, against the memory bound."""
    parts = []
    for backward in PASSES:
        rows = []
        for case in of_pass(results, section, backward):
            bound = results.bound_ns(section, case)
            ours = over(results.ns(section, "kernel", case), bound)
            torch = over(results.ns(section, "torch", case), bound)
            small = case.nbytes < SMALL_BYTES and section != "layouts"
            limit = SMALL_LIMIT if small else limits[backward]
            misses = missed(ours, limit, "bound")
            if not backward and torch and ours and torch < ours:
                misses.append("torch")
            verdict = verdicts.judge(f"{section}: kernel, {PASS[backward]}", misses)
            rows.append(
                [shape_text(case), _size(case), _us(bound), number(ours), f"{limit:g}"]
                + [number(torch), verdict]
            )
        header = ["shape", "MB", "bound, µs", "kernel", "at most", "torch", "verdict"]
        parts.append(f"**{PASS[backward].capitalize()}**\n\n{markdown(header, rows)}")
    return "\n\n".join(parts)


def missed(value: float | None, limit: float, name: str) -> list[str]:
    if value is None:
        return ["not measured"]
    return [name] if value > limit else []


def through_tensorflow(results: Results, verdicts: Verdicts, section: str) -> str:
    """The ops in a graph, against TensorFlow's own ReLU and everything that they replace."""
    parts = []
    for backward in PASSES:
        rows = []
        for case in of_pass(results, section, backward):
            ns = {name: results.ns(section, name, case) for name in ("op", "floor", *PEERS)}
            bound, limit = results.bound_ns(section, case), FLOOR_LIMITS[backward]
            ratio = over(ns["op"], ns["floor"])
            misses = missed(ratio, limit, "floor")
            rivals = [name for name in PEERS if backward or name != "torch"]
            misses += [name for name in rivals if ns[name] and ns["op"] and ns[name] < ns["op"]]
            verdict = verdicts.judge(f"{section}: op, {PASS[backward]}", misses)
            rows.append(
                [shape_text(case), _us(ns["floor"]), number(ratio), f"{limit:g}"]
                + [number(over(ns[name], bound), 1) for name in ("op", "floor", *PEERS)]
                + [verdict]
            )
        header = ["shape", "floor, µs", "op / floor", "at most", "op", "floor", *PEERS, "verdict"]
        parts.append(f"**{PASS[backward].capitalize()}**\n\n{markdown(header, rows)}")
    return "\n\n".join(parts)


def compiled(results: Results, verdicts: Verdicts, section: str) -> str:
    """The ops under `jit_compile=True`, against the graph and what XLA makes of Keras's layer."""
    parts = []
    for backward in PASSES:
        rows = []
        for case in of_pass(results, section, backward):
            ns = {name: results.ns(section, name, case) for name in COMPILED}
            bound = results.bound_ns(section, case)
            misses = _jit_misses(ns, "keras jit")
            verdict = verdicts.judge(f"{section}: op jit, {PASS[backward]}", misses)
            rows.append(
                [shape_text(case), _us(ns["op jit"]), number(over(ns["op jit"], ns["op"]))]
                + [f"{JIT_LIMIT:g}", number(over(ns["keras jit"], ns["op jit"]))]
                + [number(over(ns[name], bound), 1) for name in COMPILED]
                + [verdict]
            )
        header = ["shape", "op jit, µs", "op jit / op", "at most", "keras jit / op jit"]
        table = markdown([*header, *COMPILED, "verdict"], rows)
        parts.append(f"**{PASS[backward].capitalize()}**\n\n{table}")
    return "\n\n".join(parts)


def _jit_misses(ns: dict[str, float | None], stock: str, where: str = "") -> list[str]:
    """Tells whether XLA slows our op down, or makes something faster of the stock ops."""
    jit = ns["op jit"]
    misses = missed(over(jit, ns["op"]), JIT_LIMIT, f"op{where}")
    return misses + missed(over(jit, ns[stock]), 1, f"{stock}{where}")


def _relative(results: Results, verdicts: Verdicts, section: str, variants: dict, limit, base):
    """Rows of a pass and a way to call; a column per variant of a plain case.

    Args:
        variants: by their column, the fields that differ.
        base: from the plain and the other case to what the plain time is multiplied by.
    """
    plain = [
        case
        for case in results.cases(section)
        if all(getattr(case, key) == getattr(Norm, key) for v in variants.values() for key in v)
    ]
    rows = []
    for case in plain:
        for contender in OURS:
            ns = results.ns(section, contender, case)
            cells, misses = [], []
            for name, fields in variants.items():
                other = dataclasses.replace(case, **fields)
                ratio = over(results.ns(section, contender, other), ns)
                ratio = ratio and ratio / base(case, other)
                misses += missed(ratio, limit, name)
                cells.append(number(ratio))
            verdict = verdicts.judge(f"{section}: {contender}", misses)
            rows.append(
                [shape_text(case), PASS[case.backward], contender, _us(ns), *cells]
                + [f"{limit:g}", verdict]
            )
    header = ["shape", "pass", "through", "plain, µs", *variants, "at most", "verdict"]
    return markdown(header, rows)


def fusions(results: Results, verdicts: Verdicts) -> str:
    """Fused activation and residual over the plain op, scaled to the residual's traffic."""
    return _relative(
        results,
        verdicts,
        "fusions",
        FUSIONS,
        FUSION_LIMIT,
        lambda plain, other: other.traffic / plain.traffic,
    )


def types(results: Results, verdicts: Verdicts) -> str:
    """Times of the 16-bit types over float32."""
    variants = {dtype: {"dtype": dtype} for dtype in ("bfloat16", "float16")}
    return _relative(results, verdicts, "types", variants, TYPE_LIMIT, lambda plain, other: 1)


def threads(results: Results, verdicts: Verdicts) -> str:
    """The time on one thread and on all cores, at batch 1."""
    rows = []
    for case in results.cases("scaling"):
        if case.threads != 1:
            continue
        everywhere = dataclasses.replace(case, threads=None)
        one, every = (results.ns("scaling", "kernel", c) for c in (case, everywhere))
        copies = [results.copy_ns("scaling", c) for c in (case, everywhere)]
        gain = over(one, every)
        verdict = verdicts.judge(
            "scaling: faster on all cores", [] if gain and gain > 1 else ["no faster"]
        )
        rows.append(
            [shape_text(case), _size(case), PASS[case.backward], _us(one), _us(every)]
            + [number(gain), number(over(*copies)), verdict]
        )
    header = ["shape", "MB", "pass", "1 thread, µs", "all cores, µs", "gain", "copy's gain"]
    return markdown([*header, "verdict"], rows)


def sizes(results: Results, verdicts: Verdicts) -> str:
    """The cost per byte by tensor size."""
    rows, of_memory = [], {}
    for case in SIZES.values():
        copy = results.copy_ns("scaling", case)
        if copy is None:
            continue
        row, misses = [shape_text(case), _size(case), _per_kilobyte(copy, case)], []
        judged = case.nbytes >= MEMORY_BYTES
        for contender in OURS:
            for backward in PASSES:
                ns = results.ns("scaling", contender, dataclasses.replace(case, backward=backward))
                row.append(_per_kilobyte(ns, case))
                if contender == "kernel" and judged:
                    cost = over(ns, case.nbytes)
                    first = of_memory.setdefault(backward, cost)
                    misses += missed(over(cost, first), LINEAR_LIMIT, PASS[backward])
        rows.append([*row, verdicts.judge("scaling: linear", misses) if judged else ""])
    header = ["shape", "MB", "copy", "kernel", "kernel, both passes", "op", "op, both passes"]
    return markdown([*header, "verdict"], rows)


def _per_kilobyte(ns: float | None, case: Norm) -> str:
    return number(over(ns, case.nbytes / 1e3), 0)


def calls(results: Results, verdicts: Verdicts) -> str:
    """The time of one op of a long graph on a small tensor."""
    rows = []
    for case in results.cases("calls"):
        ns = {name: results.ns("calls", name, case) for name in ("op", "floor", "torch")}
        cells = [number(over(time, 1e3 * case.length)) for time in ns.values()]
        verdict = ""
        if ns["torch"]:
            misses = missed(over(ns["op"], ns["torch"]), 1, "PyTorch")
            verdict = verdicts.judge("calls: op in a chain", misses)
        direction = "gradient" if case.backward else "forward"
        row = f"{shape_text(case.inputs)}, {direction}"
        rows.append([row, number(case.nbytes / 1e3, 0), *cells, verdict])
    header = ["", "KB", "op, µs", "leaky ReLU, µs", "PyTorch, µs", "verdict"]
    return markdown(header, rows)


def weights(results: Results, verdicts: Verdicts) -> str:
    """Weight standardization of the kernels of a ResNet-50."""
    cells = {name: [] for name in STANDARDIZATIONS}
    misses = {"kernel": [], "op jit": []}
    for backward in PASSES:
        case = Weights(backward)
        bound = results.bound_ns("weights", case)
        ns = {name: results.ns("weights", name, case) for name in STANDARDIZATIONS}
        for name, time in ns.items():
            cells[name] += [number(over(time, 1e6), 1), number(over(time, bound))]
            cells[name].append(number(over(time, ns["op"])))
        limit = WEIGHTS_LIMITS[backward]
        misses["kernel"] += missed(over(ns["kernel"], bound), limit, PASS[backward])
        misses["op jit"] += _jit_misses(ns, "composite jit", f" ({PASS[backward]})")
    rows = [
        [name, *cells[name]]
        + [verdicts.judge(f"weights: {name}", misses[name]) if name in misses else ""]
        for name in STANDARDIZATIONS
    ]
    header = ["", "forward, ms", "× bound", "× op", "both passes, ms", "× bound", "× op", "verdict"]
    limits = " and ".join(f"{limit:g}" for limit in WEIGHTS_LIMITS.values())
    return (
        f"Targets: the kernel takes at most {limits} times the bound. op jit takes at most "
        f"{JIT_LIMIT:g} times as long as the op, and less than composite jit.\n\n"
        f"{markdown(header, rows)}"
    )


def step(results: Results, verdicts: Verdicts) -> str:
    """The training step of a ResNet50V2."""
    ns = {case: results.ns("step", "step", case) for case in STEPS}
    rows = []
    for case in STEPS:
        verdict = ""
        if case.norm == "ours":
            verdict = verdicts.judge(f"step: {case.text}", _step_misses(ns, case))
        others = (dataclasses.replace(case, norm=norm) for norm in ("bn", "gn+ws"))
        rows.append(
            [case.text, number(over(ns[case], 1e6), 0)]
            + [number(over(ns[case], ns[other])) for other in others]
            + [verdict]
        )
    return markdown(["", "ms", "over BN", "over Keras GN + WS", "verdict"], rows)


def _step_misses(ns: dict[Step, float | None], case: Step) -> list[str]:
    misses = []
    for norm, limit in STEP_LIMITS[case.jit].items():
        ratio = over(ns[case], ns[dataclasses.replace(case, norm=norm)])
        factor = "" if limit == 1 else f"{limit:g} of "
        misses += missed(ratio, limit, f"{factor}{STEP_NORMS[norm]}")
    return misses


def accuracy(results: Results, verdicts: Verdicts) -> str:
    """Our errors over their bounds, and the largest error of y of each contender."""
    by_case: dict[tuple, dict] = collections.defaultdict(dict)
    for row in results.accuracy:
        by_case[row.shape, row.dtype, row.mean][row.contender] = row
    others = list(dict.fromkeys(row.contender for row in results.accuracy))
    rows = []
    for (shape, dtype, mean), found in by_case.items():
        ours = [row for name, row in found.items() if name in OURS]
        excess = max((row.excess for row in ours), default=None)
        gradient = max((row.gradient_excess for row in ours), default=None)
        misses = [row.contender for row in ours if not row.held]
        rows.append(
            ["x".join(map(str, shape)), dtype, f"{mean:g}", number(excess), number(gradient)]
            + [f"{found[name].error:.1e}" if name in found else "-" for name in others]
            + [verdicts.judge("accuracy", misses)]
        )
    header = ["shape", "type", "mean", "y / bound", "gradients / bound", *others, "verdict"]
    return markdown(header, rows)


def has(results: Results, section: str) -> bool:
    """Returns whether a section was measured."""
    return any(name == section for name, _ in results.times)
