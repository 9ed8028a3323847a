"""Writes RESULTS.md, the plots and results.json."""

from __future__ import annotations

import json
from pathlib import Path

from . import memory, plots, tables
from .cases import NETWORKS, Norm
from .export import tables as exports
from .results import Results, run_of

#: The hand-written notes, beside the results that they are about.
NOTES = "NOTES.md"

METHOD = """\
- Every number is a median over rounds. In a round each contender has one turn, in random order.
  Each framework has its own process with one thread per core, and only one process computes at a
  time. A turn is one untimed call, which wakes the threads, then the median of a few timed calls
  (one, if it takes more than 2 ms). A contender that has used up its time budget stops early, but
  not before 5 rounds.
- Each call takes the next set from a ring of random inputs that is larger than twice the last-level
  cache. The kernels and the copy also write to a ring, whose memory was touched before. TensorFlow
  and PyTorch allocate their outputs. Freeing the outputs is not timed.
- The **bound** is the time of a copy of the input, with ordinary or non-temporal stores, whichever
  is faster, scaled to the unavoidable memory traffic. The forward pass reads x and writes y (1
  copy). Forward + backward also reads x and dy and writes dx (2.5 copies). A residual is read in
  the forward pass (1.5 copies); in the backward pass it is read again and its gradient is written
  (4 copies).
- The **floor** is TensorFlow's ReLU of x and, for the backward pass, its gradient: the best that an
  op called through TensorFlow can reach.
- **jit** is a `tf.function(jit_compile=True)`, which XLA compiles. All other TensorFlow contenders
  run in a `tf.function` without it. Tracing and compilation are not timed.
- A **ratio** divides two medians of the same rounds.
- The threads of the kernels are bound to cores, as are PyTorch's with `OMP_PROC_BIND=true`.
  TensorFlow places its own threads.
"""

COMPILED = """\
Multiples of the bound in a `tf.function(jit_compile=True)`. For our op, XLA calls the same kernels,
so it should take no longer than in a graph, apart from noise. For Keras' layer, XLA generates its
own loops, which have to be slower."""


def _both(limits: dict[bool, float], of: str) -> str:
    return f"{limits[False]:g} times {of} forward and {limits[True]:g} times for both passes"


#: What has to hold in the rows of a target. A target is looked up by the words behind its section,
#: or by its section.
LIMITS = {
    "kernel": f"the kernel alone takes at most {_both(tables.KERNEL_LIMITS, 'the memory bound')} "
    f"({tables.SMALL_LIMIT:g} times below 1 MB); channels first, at most "
    f"{_both(tables.CHANNELS_FIRST_LIMITS, 'it')}; forward, no longer than PyTorch",
    "op": f"called through TensorFlow, at most {_both(tables.FLOOR_LIMITS, 'a ReLU')}, "
    "and faster than Keras' layer, fused BatchNorm and PyTorch",
    "op jit": f"compiled by XLA, at most {tables.JIT_LIMIT:g} times the op in a graph, and faster "
    "than what XLA makes of stock ops",
    "fusions": f"with an activation or a residual, at most {tables.FUSION_LIMIT:g} times the plain "
    "op, plus the traffic of the residual",
    "types": f"in 16 bits, at most {tables.TYPE_LIMIT:g} times float32",
    "scaling": "all cores are faster than one, at batch 1, and beyond the caches a byte costs at "
    f"most {tables.LINEAR_LIMIT:g} times what it costs in the smallest tensor there",
    "calls": "in a chain of ops on a tensor in the cache, no longer than PyTorch",
    "weights": "the kernel takes at most {} and {} times the bound".format(
        *(f"{limit:g}" for limit in tables.WEIGHTS_LIMITS.values())
    ),
    "step": "a training step takes no longer than with BatchNorm, and "
    f"{tables.STEP_LIMITS[False]['gn+ws']:g} of the time with Keras' GN + WS (compiled: no longer)",
    "memory": "what `save_memory` takes, and the time of its step: see that section",
    "export": "the latency and the size of exported files: see that section",
    "accuracy": "errors against float64 are below the bounds that the design states",
}

TARGETS = """\
Targets are limits that the project sets itself. Most compare with the best that the hardware or any
op of TensorFlow could reach, not with other implementations. A target is met only if all rows of
its tables are. The tables say what a row misses, and the notes at the end say why."""

SECTIONS = {
    "ladder": (
        "Feature maps of networks, float32, channels last",
        "Multiples of the memory bound with cold inputs and 32 groups.\n\n"
        "![times over the memory bound](plots/ladder.png)\n\n"
        "![achieved bandwidth](plots/roofline.png)",
    ),
    "fusions": (
        "Fused activation and residual",
        "Multiples of the plain op of the same round. With a residual, the time of the plain op is "
        "scaled to the additional memory traffic.",
    ),
    "types": ("16-bit types", "Multiples of float32 of the same round."),
    "layouts": ("Channels first", "The same tables, with the channels after the batch."),
    "shapes": ("Sequences, volumes, odd numbers of channels", "The same tables."),
    "scaling": (
        "Cores and sizes",
        "At batch 1: the gain from all cores, and the cost per byte by tensor size.",
    ),
    "calls": (
        "Calls",
        "The time of one op in a graph, on a tensor in the cache: a chain of such ops, each on the "
        "output of the one before, over their number. On 1 KB, most of it is the call. A leaky "
        "ReLU and its gradient, which compute next to nothing, show what TensorFlow takes for any "
        "op. PyTorch runs the same chain eagerly, in its memory format for channels last.",
    ),
    "weights": (
        "Weight standardization",
        "All 53 kernels of a ResNet-50 in float32. The bound copies them one by one.",
    ),
    "step": (
        "Training step of a ResNet50V2",
        "Batch 2 at 224x224, SGD with momentum, in one `tf.function`. The rows with jit have "
        "`jit_compile=True`, and their ratios are to the other rows with jit.",
    ),
    "memory": (
        "Memory of a training step",
        "The peak of each step in a process of its own, as the increase since before the network "
        "was built: weights, gradients, momentum, activations and the code that XLA compiles. What "
        "a further image takes is the slope of a line through the peaks by batch. The steps are "
        "timed in the same rounds, those of the ResNet50V2 at batch {timed}. The 3-D U-Net takes "
        "one volume of 64x64x64x4. The block of a diffusion U-Net takes 4 feature maps of "
        "64x64x320 and has plain kernels.\n\n"
        "Targets of `save_memory` for the ResNet50V2, over BN that is compiled alike: in float32, "
        "at most {slope:g} for a further image, {peak:g} for batch 24 and 1 for batch 2; in "
        "mixed_bfloat16, at most {bfloat16:g} for a further image, over BN in float32. For the "
        "others, no more than without it. For all, a step takes at most {time:g} of the time "
        "without it.\n\n"
        "![peak memory by batch](plots/memory.png)".format(
            timed=NETWORKS["resnet50v2"].timed,
            slope=memory.SLOPE_LIMIT,
            peak=memory.PEAK_LIMITS[24],
            bfloat16=memory.BFLOAT16_SLOPE_LIMIT,
            time=memory.TIME_LIMIT,
        ),
    ),
    "export": (
        "Latency of exports",
        "One call at inference in float32 with one thread per core, from files for exactly this "
        "batch and image size. `onnxruntime`, `openvino` and `onnx` are the targets of "
        "`tensorflow_groupnorm.export`; `primitive` is the portable SavedModel converted to ONNX, "
        "with group normalizations in primitive operators; `torch` is what PyTorch's exporter "
        "writes for the same network in PyTorch (timm calls it `resnetv2_50x1_bit`), channels "
        "first. LiteRT runs the target `litert`. The fused SavedModel runs in Python, to which the "
        "ratios are, and in a C++ program, whose own clock times `Session::Run`.\n\n"
        "Targets: the fused SavedModel is the fastest, in Python or in C++. In its runtime, a file "
        "takes at most "
        f"{exports.LIMITS[exports.PRIMITIVE]:g} of the time of `primitive` and "
        f"{exports.LIMITS[exports.FROM_TORCH]:g} of that of `torch`, and has at most "
        f"{exports.NODES_LIMIT:g} of the nodes of `torch`.",
    ),
}


def write(results: Results, folder: Path):
    """Writes all files to a folder, which is created if missing."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results.to_json()))
    for name, figure in plots.draw(results).items():
        figure.savefig(folder / "plots" / f"{name}.png", dpi=120)
    notes = folder / NOTES
    text = markdown(results, notes.read_text() if notes.exists() else "")
    (folder / "RESULTS.md").write_text(text)


def read(folder: Path) -> Results:
    """Reads the results that `write` wrote."""
    return Results.from_json(json.loads((folder / "results.json").read_text()))


def markdown(results: Results, notes: str) -> str:
    """Returns the text of RESULTS.md, which ends with the notes."""
    verdicts = tables.Verdicts()
    body = [
        f"## {title}\n\n{text}\n\n{_tables(name, results, verdicts)}"
        for name, (title, text) in SECTIONS.items()
        if tables.has(results, name)
    ]
    if results.accuracy:
        body.append(_accuracy(results, verdicts))
    parts = ["# Benchmarks on the CPU", _environment(results), _summary(verdicts), *body]
    parts.append(f"## Method\n\n{METHOD}")
    if results.skipped:
        skipped = "\n".join(f"- {line}" for line in results.skipped)
        parts.append(f"## Skipped contenders\n\n{skipped}")
    parts.append(notes)
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _tables(section: str, results: Results, verdicts: tables.Verdicts) -> str:
    if section in ("ladder", "shapes", "layouts"):
        limits = tables.CHANNELS_FIRST_LIMITS if section == "layouts" else tables.KERNEL_LIMITS
        kernels = tables.kernels(results, verdicts, section, limits)
        through = tables.through_tensorflow(results, verdicts, section)
        compiled = tables.compiled(results, verdicts, section)
        return (
            f"### The kernels alone\n\n{kernels}\n\n### Through TensorFlow\n\n{through}\n\n"
            f"### Compiled by XLA\n\n{COMPILED}\n\n{compiled}"
        )
    if section == "scaling":
        threads = tables.threads(results, verdicts)
        sizes = tables.sizes(results, verdicts)
        return (
            f"{threads}\n\nNanoseconds per kilobyte of input, from 1 KB to 4 GB or what memory "
            "allows. Below 1 MB the overhead of the call dominates. Beyond the caches, a byte may "
            f"cost the kernel at most {tables.LINEAR_LIMIT:g} times what it costs in the smallest "
            f"tensor there.\n\n{sizes}"
        )
    if section == "memory":
        return memory.table(results, verdicts)
    if section == "export":
        return exports.table(results, verdicts)
    return getattr(tables, section)(results, verdicts)


def _accuracy(results: Results, verdicts: tables.Verdicts) -> str:
    return f"""## Accuracy

Errors against float64 on the same inputs, at batch 1 and a standard deviation of 1. The columns of
ratios show the larger of our kernel's and op's errors over its bound:
`|y - y64| <= 2^-24 (8 (1 + |mean| rstd) |gamma| + 2 |y64|)` plus one rounding to the type, and for
gradients `64 * 2^-24 (1 + |mean| rstd)` in relative norm. The other columns show the largest error
of y for each contender.

![error against mean](plots/accuracy.png)

{tables.accuracy(results, verdicts)}"""


def _environment(results: Results) -> str:
    environment = results.environment
    facts = environment["machine"] | _bandwidth(results) | environment["versions"]
    lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    runs = " ".join(
        f"`{run['command']}`, {run['date']}, {run['rounds']} rounds."
        for run in [*environment.get("before", []), run_of(environment)]
    )
    return (
        f"{runs} This file is generated; the hand-written notes are in NOTES.md.\n\n"
        f"| | |\n| :-- | :-- |\n{lines}"
    )


def _bandwidth(results: Results) -> dict[str, str]:
    copies = [
        (entry.case.nbytes, entry.contender, results.ns(section, *entry))
        for section, entry in results.times
        if isinstance(entry.case, Norm) and "copy" in entry.contender and not entry.case.threads
    ]
    if not copies:
        return {}
    largest = max(nbytes for nbytes, _, _ in copies)
    rates = {name: 2 * nbytes / ns for nbytes, name, ns in copies if nbytes == largest}
    return {
        f"copy of {largest / 1e6:.0f} MB, read + written": ", ".join(
            f"{rate:.1f} GB/s with {'non-temporal' if 'streaming' in name else 'ordinary'} stores"
            for name, rate in rates.items()
        )
    }


def _summary(verdicts: tables.Verdicts) -> str:
    if not verdicts.rows:
        return ""
    rows = [
        [target, str(sum(rows)), str(len(rows)), "met" if all(rows) else "**missed**"]
        for target, rows in verdicts.rows.items()
    ]
    kinds = {_kind(target) for target in verdicts.rows}
    limits = "\n".join(f"- **{kind}:** {text}." for kind, text in LIMITS.items() if kind in kinds)
    table = tables.markdown(["target", "rows met", "of", "verdict"], rows)
    return f"## Targets\n\n{TARGETS}\n\n{limits}\n\n{table}"


def _kind(target: str) -> str:
    """Returns the key of a target in `LIMITS`."""
    section, _, rest = target.partition(": ")
    name = rest.partition(", ")[0]
    return section if section in LIMITS and name != "op jit" else name
