"""The results of a study: `results.json`, and the report with its tables and plots."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from tfgn_base.files import whole, write_text

from ..config import RunConfig, Study
from ..data.dataset import Dataset
from ..presets import PRESETS
from . import method, page, plots, tables, verdict
from .names import label
from .summary import summarize


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
        console: prints the verdict and the tables of errors.
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
    for what, said in verdict.sentences(summary):
        console.print(f"{what}: {said}", soft_wrap=not console.is_terminal)
    if verdict.note(summary):
        console.print(verdict.note(summary), soft_wrap=not console.is_terminal)
    for table in tables.errors_on_console(summary):
        console.print(table)
    console.print(f"Report: {study.out / 'report.html'}", soft_wrap=not console.is_terminal)
    return summary


def markdown(summary: dict[str, Any]) -> str:
    """Returns the report in Markdown.

    Args:
        summary: the result of `summarize`.

    Returns:
        The text, which refers to the files of the plots.
    """
    options = summary["options"]
    preset = options["preset"]
    heading = "Does GroupNorm + WS help at my batch size?"
    if preset is not None:
        heading = f"Preset {preset}: {PRESETS[preset].title}"
    answer, *images = [f"![{plot.caption}]({plot.name}.png)" for plot in plots.chosen(options)]
    range_text = ", ranges over the seeds in brackets" if len(options["seeds"]) > 1 else ""
    return f"""# {heading}

{_verdict(summary)}{answer}

{method.setting(summary)}

## What is compared

{method.definitions(options["norms"])}

## Validation error in %

Means{range_text}.

{tables.by_batch_size(summary, tables.error_text)}
{_differences(summary)}
{_paragraphs(images)}
{tables.published(summary)}{tables.tuning(summary)}
## Step time in ms

{tables.by_batch_size(summary, _step_text)}
{method.shared_cores(summary["runs"])}
## Peak memory in MiB

{tables.by_batch_size(summary, lambda c: f"{c['peak_mib']:.0f} (+{c['increase_mib']:.0f})")}

## Method

{method.method(options)}

## Runs

{tables.runs(summary)}

## Configuration

```json
{_configuration({"options": options, "environment": summary["environment"]})}
```
"""


def _verdict(summary: dict[str, Any]) -> str:
    """Returns the verdict as a list, and what a preset cannot show, each with an empty line."""
    items = [f"- **{what}:** {text}" for what, text in verdict.sentences(summary)]
    return _paragraphs(["\n".join(items), verdict.note(summary)])


def _differences(summary: dict[str, Any]) -> str:
    if len(summary["options"]["norms"]) == 1:
        return ""
    return f"""
## Difference to {label(summary["reference"])} in points

{tables.differences(summary)}

{method.certainty(summary)}
"""


def _paragraphs(texts: list[str]) -> str:
    return "".join(f"{text}\n\n" for text in texts if text)


def _configuration(parts: dict[str, dict[str, Any]]) -> str:
    """Returns JSON with one line for each entry of each part."""
    texts = []
    for name, part in parts.items():
        lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
        texts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(texts) + "\n}"


def _step_text(cell: dict[str, Any]) -> str:
    return "-" if cell["step_ms"] is None else f"{cell['step_ms']:.1f}"
