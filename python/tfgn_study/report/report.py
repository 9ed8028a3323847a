"""The answer of a study: tables and plots, from the results of its runs."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path

from rich.console import Console
from tfgn_base.files import whole, write_text

from ..config import FINAL_EPOCHS, REFERENCE_BATCH_SIZE, RunConfig, Study
from ..data.dataset import Dataset
from ..norms import NORMS, norm_of
from ..presets import PRESETS
from . import page, plots, tables


def title(config: RunConfig, study: Study) -> str:
    """Returns what a run is called while it trains."""
    norm = next(text for text, variant in study.variants().items() if variant == config.variant)
    model = f"{config.model}, " if len(study.models) > 1 else ""
    return f"{model}{norm}, batch {config.batch_size}, seed {config.seed}"


def write(
    study: Study, dataset: Dataset, environment: dict, results: list[dict], console: Console
) -> dict:
    """Writes `report.html`, `report.md`, `results.json` and the plots to `study.out`.

    Args:
        study: the options.
        dataset: the images.
        environment: what trained the networks.
        results: of every run, as the worker returns them, each with its `config`.
        console: where the table is printed.

    Returns:
        The content of `results.json`.
    """
    summary = summarize(study, dataset, environment, results)
    figures = plots.all_plots(summary)
    text = markdown(summary)
    for name, content in (
        ("results.json", json.dumps(summary, indent=1, allow_nan=False)),
        ("report.md", text),
        ("report.html", page.render(text, figures)),
    ):
        write_text(study.out / name, content)
    for name, (_, figure) in figures.items():
        with whole(study.out / f"{name}.png") as unfinished:
            figure.savefig(unfinished, format="png", dpi=150)
    for table in tables.errors_on_console(summary):
        console.print(table)
    console.print(f"Report: {study.out / 'report.html'}")
    return summary


def summarize(study: Study, dataset: Dataset, environment: dict, results: list[dict]) -> dict:
    """Gathers the runs of each model, norm and batch size.

    Args:
        study: the options.
        dataset: the images.
        environment: what trained the networks.
        results: of every run.

    Returns:
        `options`, `dataset`, `environment`, `runs` (the results, each with its `norm` as the
        options spell it) and `cells`: for each model, norm and batch size the mean `error` over
        the seeds, `error_min`, `error_max`, `diverged` (runs), and the means of `step_ms`,
        `peak_mib` and `increase_mib` (peak above the baseline).
    """
    cells, runs = [], []
    for model in study.models:
        for norm, variant in study.variants().items():
            for batch_size in sorted(study.batch_sizes):
                key = {"model": model, "batch_size": batch_size, **dataclasses.asdict(variant)}
                of_cell = [
                    {"norm": norm, **result}
                    for result in results
                    if key.items() <= result["config"].items()
                ]
                runs += of_cell
                head = {"model": model, "norm": norm, "batch_size": batch_size}
                cells.append(head | _cell(of_cell))
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(study).items()
    }
    images = dataclasses.asdict(dataset) | {"path": dataset.path.name}
    # Tuples become lists, as they are in the file.
    return json.loads(
        json.dumps(
            {
                "options": options,
                "dataset": images,
                "environment": environment,
                "cells": cells,
                "runs": runs,
            },
            allow_nan=False,
        )
    )


def _cell(runs: list[dict]) -> dict:
    errors = [run["error"] for run in runs]
    steps = [run["step_ms"] for run in runs if run["step_ms"] is not None]
    return {
        "error": statistics.fmean(errors),
        "error_min": min(errors),
        "error_max": max(errors),
        "diverged": sum(run["diverged"] for run in runs),
        "step_ms": statistics.fmean(steps) if steps else None,
        "peak_mib": statistics.fmean(run["peak_mib"] for run in runs),
        "increase_mib": statistics.fmean(run["peak_mib"] - run["baseline_mib"] for run in runs),
    }


def markdown(summary: dict) -> str:
    """Returns the report in Markdown.

    Args:
        summary: of `summarize`.

    Returns:
        The text, which shows the plots that lie beside it.
    """
    options, dataset = summary["options"], summary["dataset"]
    side = options["image_size"]
    typical = tables.typical_error(summary)
    noise = math.sqrt(typical * (1 - typical) / dataset["val"])
    seeds = options["seeds"]
    spread = (
        f"Means over {len(seeds)} seeds, (smallest-largest) in brackets. " if len(seeds) > 1 else ""
    )
    images = "\n\n".join(
        f"![{caption}]({name}.png)" for name, (caption, _) in plots.all_plots(summary).items()
    )
    preset = options["preset"]
    heading = "Does GroupNorm + WS help at my batch size?"
    if preset is not None:
        heading = f"Preset {preset}: {PRESETS[preset].title}"
    return f"""# {heading}

{", ".join(options["models"])} on {dataset["name"]}: {dataset["train"]} training and
{dataset["val"]} validation images of {side}x{side} pixels, {dataset["classes"]} classes,
{options["epochs"]} epochs, seed{"s" if len(seeds) > 1 else ""} {", ".join(map(str, seeds))}.

## Validation error in %

{tables.by_batch_size(summary, tables.error_text, best=True)}

{spread}The lowest error of each batch size is bold. An error of {typical:.1%} on {dataset["val"]}
images has a standard error of {100 * noise:.1f} points: smaller differences are chance.

{images}
{tables.published(summary)}
## Step time in ms

{tables.by_batch_size(summary, _step_text)}
{_shared(summary["runs"])}
## Peak memory in MiB

{tables.by_batch_size(summary, lambda c: f"{c['peak_mib']:.0f} (+{c['increase_mib']:.0f})")}

## How it was measured

{_method(options)}
{_definitions(options["norms"])}

## Runs

{tables.runs(summary)}

## Configuration

```json
{_configuration({"options": options, "environment": summary["environment"]})}
```
"""


def _configuration(parts: dict[str, dict]) -> str:
    """Returns JSON with a line for each entry of each part."""
    texts = []
    for name, part in parts.items():
        lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
        texts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(texts) + "\n}"


def _step_text(cell: dict) -> str:
    return "-" if cell["step_ms"] is None else f"{cell['step_ms']:.1f}"


def _method(options: dict) -> str:
    rate = f"{options['learning_rate']:g} x batch / {REFERENCE_BATCH_SIZE}"
    groups = (
        f"{options['groups']} groups"
        if options["group_size"] is None
        else f"{options['group_size']} channels per group"
    )
    extras = {
        "augment": "Training images are flipped and shifted by up to 1/8 of their side at random.",
        "ema": "What validates is an exponential moving average of the weights, of momentum "
        "{}; BatchNorm's statistics are not averaged further.",
        "clip_norm": "Gradients are scaled down to a norm of {}, all of them together.",
        "agc": "Adaptive gradient clipping (arXiv 2102.06171): the gradient of a unit is scaled "
        "down to {} of the norm of its weights, but for the last layer's.",
        "mixed_precision": "Layers compute in {}, with float32 weights and logits.",
        "jit": "XLA compiles the training step.",
        "bit_checkpoint": "The networks start from the checkpoint `{}` with logits of 0.",
    }
    used = [f"- {text.format(options[name])}" for name, text in extras.items() if options[name]]
    return "\n".join(
        [
            f"""\
- Validation error: the median over the final {FINAL_EPOCHS} epochs, as in the GroupNorm paper
  (arXiv 1803.08494). A run whose loss became NaN ends there ("diverged").
- Every run is the same network from the same seed in a process of its own; SGD with momentum 0.9,
  learning rate {rate} with a cosine decay to 0.
- Step time: the median over all training steps but the first of each epoch, which trace the graph
  or fill the input pipeline. Validation is not counted.
- Peak memory: the most resident memory that the run's process ever held, TensorFlow itself and the
  images included; in brackets, how far that is above what it held before the network was built.
- `gn` and `gn+ws` use {groups} where nothing else is said.""",
            *used,
        ]
    )


def _shared(results: list[dict]) -> str:
    """Returns what is to be said of step times where runs were not alone on the machine."""
    workers = max(result.get("workers", 1) for result in results)
    if workers == 1:
        return ""
    return f"""
Up to {workers} runs trained at a time and shared the cores: alone, a step takes less. To compare
step times, train with `--workers 1` into another folder.
"""


def _definitions(norms: list[str]) -> str:
    return "\n".join(
        f"- `{norm}`: {NORMS[norm]}" for norm in dict.fromkeys(norm_of(norm) for norm in norms)
    )
