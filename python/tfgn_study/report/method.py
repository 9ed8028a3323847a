"""How the numbers of a report came about, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..description import describe
from ..norms import NORMS
from ..options import FINAL_EPOCHS, IGNORED, REFERENCE_BATCH_SIZE, Options
from . import tables
from .names import LABELS, kinds, label
from .uncertainty import names_images


def setting(summary: Mapping[str, Any]) -> str:
    """Returns what was trained on which images."""
    options, dataset = summary["options"], summary["dataset"]
    side, epochs, seeds = options["image_size"], options["epochs"], options["seeds"]
    error = (
        ""
        if options["task"] == "classification"
        else " The error is 1 minus the mean intersection over union (IoU) of the classes."
    )
    return (
        f"{', '.join(options['models'])} on {dataset['name']}: {dataset['train']} training and "
        f"{dataset['val']} validation images of {side}x{side} pixels, {dataset['classes']} "
        f"classes, "
        f"{epochs} epoch{'' if epochs == 1 else 's'}, seed{'' if len(seeds) == 1 else 's'} "
        f"{', '.join(map(str, seeds))}.{error}"
    )


def definitions(norms: Sequence[str]) -> str:
    """Returns a list of the normalizations, each with its name on the command line."""
    return "\n".join(
        f"- **{LABELS[kind]}** (`{kind}`): {NORMS[kind].text}" for kind in kinds(norms)
    )


def certainty(summary: dict[str, Any]) -> str:
    """Returns what the intervals are and what they cover."""
    options, reference = summary["options"], label(summary["reference"])
    half = tables.half_width(summary)
    if half is None:
        return (
            "There is one run of each kind, which does not say which images it got wrong: chance "
            "cannot be told. Train with more seeds: `--seeds 0,1,2`."
        )
    if len(options["seeds"]) == 1:
        cover = (
            "With one seed they cover the choice of the validation images alone: another seed may "
            "give another answer. `--seeds 0,1,2` covers both."
        )
    else:
        cover = "They cover the choice of the seeds and of the validation images."
        if len(options["seeds"]) == 2:
            cover += " Two seeds are few: such intervals hold the truth in 90 of 100 studies."
    if not all(names_images(run) for run in summary["runs"]):
        cover += (
            " Where a run does not say which images it got wrong (it is of an earlier version), "
            "they cover the seeds alone."
        )
    count = sum(cell["difference"] is not None for cell in summary["cells"])
    return (
        f"In brackets are intervals of 95% confidence. {cover} Bold: the interval leaves out 0, so "
        f"that the difference to {reference} is beyond chance. All others may be chance. Half the "
        f"intervals reach less than {100 * half:.1f} points to either side. Each of the "
        f"{count} differences is judged on its own: among 20 that do not exist, one is expected in "
        "bold."
    )


def method(options: Mapping[str, Any]) -> str:
    """Returns how the runs were trained and measured, as a list."""
    rate = f"{options['learning_rate']:g} x batch / {REFERENCE_BATCH_SIZE}"
    tuned = (
        ", times the factor that was best for its norm and batch size,"
        if options.get("tune_learning_rate")
        else ""
    )
    groups = (
        f"{options['groups']} groups"
        if options["group_size"] is None
        else f"{options['group_size']} channels per group"
    )
    grouped = [f"`{kind}`" for kind in kinds(options["norms"]) if NORMS[kind].takes_groups]
    iou = (
        []
        if options["task"] == "classification"
        else [
            "- Intersection and union of each class are summed over the pixels of all validation "
            "images, as in PASCAL VOC. The training error in the curves is that of all batches of "
            f"an epoch. Pixels of the value {IGNORED} do not count."
        ]
    )
    used = iou + [
        f"- {described.sentence.format(options[described.field])}"
        for described in describe(Options)
        if described.sentence is not None and options.get(described.field)
    ]
    if grouped:
        used.insert(0, f"- {', '.join(grouped)}: {groups} unless stated otherwise.")
    return "\n".join(
        [
            f"""\
- Validation error: {_final(options["epochs"])}. A run ends when its loss becomes NaN ("diverged").
- Each run trains in its own process, by SGD with momentum 0.9 and a learning rate of {rate}{tuned}
  that decays to 0 along a cosine.
- The runs of a seed are pairs: for every norm they start from the same weights and see the same
  images in the same order. Differences are taken seed by seed and image by image.
- Intervals: the variance is that over the seeds (Student's t, as there are few) plus that over 1000
  resamples of the validation images, with what both share counted once, as in studies with several
  readers and cases (Hillis, Statistics in Medicine 26(3), 2007).
- Step time: the median over all training steps except the first of each epoch, in which the graph
  is traced or the input pipeline fills. Validation is not included.
- Peak memory: the peak resident memory of the run's process, including TensorFlow and the images;
  in brackets, the increase since before the network was built.""",
            *used,
        ]
    )


def shared_cores(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns a note on step times if several runs trained at a time."""
    workers = max(result.get("workers", 1) for result in results)
    if workers == 1:
        return ""
    return f"""
Up to {workers} runs trained at a time and shared the cores; a step of a single run takes less
time. To compare step times, train with `--workers 1` and another `--out` folder.
"""


def _final(epochs: int) -> str:
    if epochs == 1:
        return "that after the only epoch"
    final = min(FINAL_EPOCHS, epochs)
    text = f"the median over the last {final} epochs"
    return (
        f"{text}, as in the GroupNorm paper (arXiv 1803.08494)" if final == FINAL_EPOCHS else text
    )
