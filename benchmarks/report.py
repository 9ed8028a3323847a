"""Writes RESULTS.md, the plots and results.json."""

from __future__ import annotations

import json
from pathlib import Path

from . import plots, tables
from .cases import Norm
from .results import Results
from .rounds import ROOT

NOTES = ROOT / "benchmarks" / "NOTES.md"

METHOD = """\
- Every number is a median over rounds. In a round each contender has one turn, in random order; one
  process per framework, of which only one computes at a time, with a thread per core. A turn is
  an untimed call, which wakes the threads, then the median of a few calls (one, if it takes over
  2 ms). A contender that has used up its time stops early, after 5 rounds at least.
- Each call takes the next of a ring of random inputs that is larger than twice the last-level
  cache. The outputs of the kernels and of the copy are rings, too, of memory that was touched
  before; TensorFlow and PyTorch allocate theirs. Freeing the outputs is not timed.
- The **bound** is the time of a copy of the input, the better of ordinary and non-temporal stores,
  times the traffic that cannot be avoided over that of the copy: forward reads x and writes y
  (1 copy), forward + backward also reads x and dy and writes dx (2.5 copies). A residual is read in
  the forward pass (1.5 copies), read again and its gradient written in the backward pass (4).
- The **floor** is TensorFlow's ReLU of x, and for the backward pass its gradient: what an op that
  is called through TensorFlow can reach.
- **jit** is a `tf.function(jit_compile=True)`, which XLA compiles; everything else of TensorFlow is
  in a `tf.function` without. Tracing and compiling are no part of any time.
- A **ratio** is one median over another, of the same rounds.
- Kernels are bound to cores, as PyTorch's threads are with `OMP_PROC_BIND=true`. TensorFlow places
  its own.
"""

COMPILED = """\
In a `tf.function(jit_compile=True)`, multiples of the bound. XLA calls the kernels of our op as
they are, so that it should take no longer than in a graph, but for noise. Of Keras's layer XLA
makes loops of its own, which have to be slower."""

SECTIONS = {
    "ladder": (
        "Feature maps of networks, float32, channels last",
        "Multiples of the memory bound, cold inputs; 32 groups.\n\n"
        "![times over the memory bound](plots/ladder.png)\n\n"
        "![achieved bandwidth](plots/roofline.png)",
    ),
    "fusions": (
        "Activation and residual in the kernel",
        "Times over the plain op of the same round; with a residual, over the plain op times the "
        "traffic that the residual adds.",
    ),
    "types": ("16-bit types", "Times over float32 of the same round."),
    "layouts": ("Channels first", "As above, with the channels behind the batch."),
    "shapes": ("Sequences, volumes, odd numbers of channels", "As above."),
    "scaling": (
        "Cores and sizes",
        "At batch 1. Does every core help, and does the cost grow linearly?",
    ),
    "weights": (
        "Weight standardization",
        "Of the 53 kernels of a ResNet-50, float32; the bound copies kernel by kernel.",
    ),
    "step": (
        "Training step of a ResNet50V2",
        "Batch 2 at 224x224, SGD with momentum, one `tf.function`. The rows with jit have "
        "`jit_compile=True` and are over the others with it. Peak memory is in a process of its "
        "own, above what it held before the network was built.",
    ),
}


def write(results: Results, folder: Path):
    """Writes all files into a folder, which is made where it is missing."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results.to_json()))
    for name, figure in plots.draw(results).items():
        figure.savefig(folder / "plots" / f"{name}.png", dpi=120)
    (folder / "RESULTS.md").write_text(markdown(results))


def read(folder: Path) -> Results:
    """Reads what `write` has left."""
    return Results.from_json(json.loads((folder / "results.json").read_text()))


def markdown(results: Results) -> str:
    """Returns the text of RESULTS.md."""
    verdicts = tables.Verdicts()
    body = [
        f"## {title}\n\n{text}\n\n{_tables(name, results, verdicts)}"
        for name, (title, text) in SECTIONS.items()
        if tables.has(results, name)
    ]
    if results.accuracy:
        body.append(_accuracy(results, verdicts))
    parts = ["# Benchmarks on the CPU", _environment(results), _summary(verdicts), *body]
    parts.append(f"## How it was measured\n\n{METHOD}")
    if results.skipped:
        parts.append("## What did not run\n\n" + "\n".join(f"- {line}" for line in results.skipped))
    if NOTES.exists():
        parts.append(NOTES.read_text().strip())
    return "\n\n".join(part.strip() for part in parts) + "\n"


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
            "allows. Below 1 MB the call is what costs. Beyond the caches the kernel may take at "
            f"most {tables.LINEAR_LIMIT:g} times what it takes for the first of these.\n\n{sizes}"
        )
    return getattr(tables, section)(results, verdicts)


def _accuracy(results: Results, verdicts: tables.Verdicts) -> str:
    return f"""## Accuracy

Errors against float64 on the same inputs, batch 1, deviation 1. Of ours, the larger of kernel and
op over its bound:
`|y - y64| <= 2^-24 (8 (1 + |mean| rstd) |gamma| + 2 |y64|)` and one rounding to the type, and for
gradients `64 * 2^-24 (1 + |mean| rstd)` in relative norm. Of everybody the largest error of y.

![error against mean](plots/accuracy.png)

{tables.accuracy(results, verdicts)}"""


def _environment(results: Results) -> str:
    environment = results.environment
    facts = environment["machine"] | _bandwidth(results) | environment["versions"]
    lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return (
        f"`{environment['command']}`, {environment['date']}, {environment['rounds']} rounds. "
        "This file is generated; what is written by hand is in NOTES.md.\n\n"
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
    rows = [
        [target, str(sum(rows)), str(len(rows)), "met" if all(rows) else "**missed**"]
        for target, rows in verdicts.rows.items()
    ]
    if not rows:
        return ""
    return f"## Targets\n\n{tables.markdown(['target', 'rows met', 'of', 'verdict'], rows)}"
