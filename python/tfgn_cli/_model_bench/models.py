"""The model of a job: loaded, checked, converted."""

from __future__ import annotations

import difflib
import importlib
import inspect
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow_groupnorm import ConversionReport, ExportError, convert
from tensorflow_groupnorm._export.errors import first_line
from tensorflow_groupnorm._export.model import named_signature, with_declared_batch

from .._model_files import load
from .job import AS_IT_IS, SAVING, Job, RefusedError


def of_job(job: Job, variant: str) -> tuple[keras.Model, list[str]]:
    """Returns the model in a variant, and notes on it.

    Raises:
        RefusedError: if there is no such model, or it cannot be converted.
    """
    for module in job.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise RefusedError(f"--import: {error}") from error
    model, notes = _read(Path(job.model)) if Path(job.model).is_file() else _application(job)
    if variant == AS_IT_IS:
        return model, notes
    reports: list[ConversionReport] = []
    options: dict[str, Any] = {"save_memory": True} if variant == SAVING else {}
    # In place: TensorFlow never gives back the memory that a second model has taken.
    options |= {"groups": job.groups, "in_place": True, "report": reports.append}
    try:
        model = convert(model, **options)
    except (TypeError, ValueError) as error:
        raise RefusedError(f"it cannot be converted: {first_line(error)}") from error
    report = reports[0]
    if not report.count("replaced"):
        notes.append("the conversion replaces no layer of this model")
    if variant == SAVING and not report.count("paired"):
        notes.append("no normalization of this model could be paired with what reads its output")
    return model, notes + report.notes


def _read(path: Path) -> tuple[keras.Model, list[str]]:
    model, failure = load(path)
    if model is None:
        raise RefusedError(failure)
    if not isinstance(model, keras.Model):
        raise RefusedError(f"{path} holds a {type(model).__name__}, which is no keras.Model")
    return model, []


def _application(job: Job) -> tuple[keras.Model, list[str]]:
    functions = dict(inspect.getmembers(keras.applications, inspect.isfunction))
    if job.model not in functions:
        by_lower = {name.lower(): name for name in functions}
        close = difflib.get_close_matches(job.model.lower(), by_lower, n=3)
        hint = f"; similar names are {', '.join(by_lower[name] for name in close)}" if close else ""
        raise RefusedError(
            f"{job.model} is neither a file nor the name of a model of keras.applications{hint}"
        )
    options = {"input_shape": (job.image_size, job.image_size, 3)} if job.image_size else {}
    try:
        return functions[job.model](weights=None, **options), []
    except ValueError as error:
        raise RefusedError(f"{job.model} cannot be built: {first_line(error)}") from error


def inputs(model: keras.Model, job: Job) -> list[Any]:
    """Returns the inputs that the model takes in this job.

    Returns:
        A list of structures of `tf.TensorSpec`, one per positional argument, without unknown sizes.

    Raises:
        RefusedError: if the model cannot be trained on random numbers of the sizes of the job.
    """
    if not model.trainable_variables:
        raise RefusedError(f"{model.name} has no trainable weights")
    try:
        signature = with_declared_batch(model, named_signature(model))
    except ExportError as error:
        raise RefusedError(str(error)) from error
    specs = keras.tree.flatten(signature)
    unknown = any(None in spec.shape[1:] for spec in specs if spec.shape.rank)
    if job.image_size and not unknown and not any(job.image_size in spec.shape for spec in specs):
        shapes = ", ".join(str(spec.shape) for spec in specs)
        raise RefusedError(f"{model.name} takes inputs of the shape {shapes} and no other size")
    return [keras.tree.map_structure(lambda spec: _sized(model, spec, job), s) for s in signature]


def _sized(model: keras.Model, spec: tf.TensorSpec, job: Job) -> tf.TensorSpec:
    if not spec.dtype.is_floating:
        raise RefusedError(
            f"the input {spec.name} of {model.name} takes {spec.dtype.name}, which random numbers "
            "cannot stand in for"
        )
    if not spec.shape.rank:
        raise RefusedError(f"the input {spec.name} of {model.name} has no batch of samples")
    batch, *sizes = spec.shape
    if batch not in (None, job.batch_size):
        raise RefusedError(f"{model.name} takes batches of {batch} only: --batch-size {batch}")
    if None in sizes and not job.image_size:
        raise RefusedError(
            f"the input {spec.name} of {model.name} has the shape {spec.shape}: --image-size gives "
            "the unknown sizes"
        )
    sizes = [size or job.image_size for size in sizes]
    return tf.TensorSpec([job.batch_size, *sizes], spec.dtype, spec.name)
