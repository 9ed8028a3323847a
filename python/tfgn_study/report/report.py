"""The results of a study: `results.json`, and the report with its tables and plots."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from tfgn_base.files import whole, write_text

from ..config import RunConfig, Study
from ..data.dataset import Dataset
from ..description import describe
from ..norms import NORMS, norm_of
from ..options import FINAL_EPOCHS, REFERENCE_BATCH_SIZE, Options
from ..presets import PRESETS
from . import page, plots, tables


def title(config: RunConfig, study: Study) -> str:
    """Returns the title of a run while it trains."""
    norm = next(text for text, variant in study.variants().items() if variant == config.variant)
    model = f"{config.model}, " if len(study.models) > 1 else ""
    return f"{model}{norm}, batch {config.batch_size}, seed {config.seed}"


def write(
    study: Study,
    dataset: Dataset,
    environment: dict[str, Any],
    results: list[dict[str, Any]],
    console: Console,
    tuning: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Writes `report.html`, `report.md`, `results.json` and the plots to `study.out`.

    Args:
        study: the options.
        dataset: the images.
        environment: the software and the machine; see `environment.collect`.
        results: the results of all runs, as the worker returns them, each with its `config`.
        console: prints the tables of errors.
        tuning: how the learning rates were chosen, as `tuning.summarize` returns it, or `None`.

    Returns:
        The content of `results.json`.
    """
    summary = summarize(study, dataset, environment, results, tuning)
    text = markdown(summary)
    drawings = {}
    for plot in plots.chosen(summary["options"]):
        figure = plot.draw(summary)
        drawings[plot.name] = page.svg(plot.name, figure)
        with whole(study.out / f"{plot.name}.png") as unfinished:
            figure.savefig(unfinished, format="png", dpi=150)
    for name, content in (
        ("results.json", json.dumps(summary, indent=1, allow_nan=False)),
        ("report.md", text),
        ("report.html", page.render(text, drawings)),
    ):
        write_text(study.out / name, content)
    for table in tables.errors_on_console(summary):
        console.print(table)
    console.print(f"Report: {study.out / 'report.html'}")
    return summary


def summarize(
    study: Study,
    dataset: Dataset,
    environment: dict[str, Any],
    results: list[dict[str, Any]],
    tuning: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Groups the runs by model, norm and batch size.

    Args:
        study: the options.
        dataset: the images.
        environment: the software and the machine; see `environment.collect`.
        results: the results of all runs.
        tuning: how the learning rates were chosen, as `tuning.summarize` returns it, or `None`.

    Returns:
        `options`, `dataset`, `environment`, `runs` (the results, each with its `norm` as spelled
        in the options) and `cells`: for each model, norm and batch size the mean `error` over the
        seeds, `error_min`, `error_max`, `diverged` (number of runs), and the means of `step_ms`,
        `peak_mib` and `increase_mib` (peak minus baseline). `tuning` if it is given.
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
    # Tuples become lists, as in the file.
    return json.loads(
        json.dumps(
            {
                "options": options,
                "dataset": images,
                "environment": environment,
                "cells": cells,
                "runs": runs,
            }
            | ({} if tuning is None else {"tuning": tuning}),
            allow_nan=False,
        )
    )


def _cell(runs: list[dict[str, Any]]) -> dict[str, Any]:
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


def markdown(summary: dict[str, Any]) -> str:
    """Returns the report in Markdown.

    Args:
        summary: the result of `summarize`.

    Returns:
        The text, which refers to the files of the plots.
    """
    options, dataset = summary["options"], summary["dataset"]
    side = options["image_size"]
    typical = tables.typical_error(summary)
    noise = math.sqrt(typical * (1 - typical) / dataset["val"])
    seeds = options["seeds"]
    spread = f"Means over {len(seeds)} seeds, ranges in brackets. " if len(seeds) > 1 else ""
    images = "\n\n".join(f"![{plot.caption}]({plot.name}.png)" for plot in plots.chosen(options))
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
images has a standard error of {100 * noise:.1f} points: smaller differences may be chance.

{images}
{tables.published(summary)}
## Step time in ms

{tables.by_batch_size(summary, _step_text)}
{_shared(summary["runs"])}
## Peak memory in MiB

{tables.by_batch_size(summary, lambda c: f"{c['peak_mib']:.0f} (+{c['increase_mib']:.0f})")}

## Method

{_method(options)}
{_definitions(options["norms"])}

## Runs

{tables.runs(summary)}

## Configuration

```json
{_configuration({"options": options, "environment": summary["environment"]})}
```
"""


def _configuration(parts: dict[str, dict[str, Any]]) -> str:
    """Returns JSON with one line for each entry of each part."""
    texts = []
    for name, part in parts.items():
        lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
        texts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(texts) + "\n}"


def _step_text(cell: dict[str, Any]) -> str:
    return "-" if cell["step_ms"] is None else f"{cell['step_ms']:.1f}"


def _method(options: dict[str, Any]) -> str:
    rate = f"{options['learning_rate']:g} x batch / {REFERENCE_BATCH_SIZE}"
    groups = (
        f"{options['groups']} groups"
        if options["group_size"] is None
        else f"{options['group_size']} channels per group"
    )
    used = [
        f"- {described.sentence.format(options[described.field])}"
        for described in describe(Options)
        if described.sentence is not None and options[described.field]
    ]
    return "\n".join(
        [
            f"""\
- Validation error: the median over the last {FINAL_EPOCHS} epochs, as in the GroupNorm paper
  (arXiv 1803.08494). A run ends when its loss becomes NaN ("diverged").
- Each run trains in its own process, with the initial weights and the order of images of its seed,
  by SGD with momentum 0.9 and a learning rate of {rate} that decays to 0 along a cosine.
- Step time: the median over all training steps except the first of each epoch, in which the graph
  is traced or the input pipeline fills. Validation is not included.
- Peak memory: the peak resident memory of the run's process, including TensorFlow and the images;
  in brackets, the increase since before the network was built.
- `gn` and `gn+ws` use {groups} unless stated otherwise.""",
            *used,
        ]
    )


def _shared(results: list[dict[str, Any]]) -> str:
    """Returns a note on step times if several runs trained at a time."""
    workers = max(result.get("workers", 1) for result in results)
    if workers == 1:
        return ""
    return f"""
Up to {workers} runs trained at a time and shared the cores; a step of a single run takes less
time. To compare step times, train with `--workers 1` and another `--out` folder.
"""


def _definitions(norms: list[str]) -> str:
    return "\n".join(
        f"- `{norm}`: {NORMS[norm].text}" for norm in dict.fromkeys(norm_of(norm) for norm in norms)
    )
