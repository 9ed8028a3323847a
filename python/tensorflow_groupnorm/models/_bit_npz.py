"""Reads the published checkpoints of Big Transfer."""

from __future__ import annotations

import os
import re
import zipfile

import keras
import numpy as np

from ..layers import GroupNormalization, StandardizedConv2D

_HEADS = ("load", "zeros", "leave")
_LAYER = re.compile(r"(?:block(\d)_unit(\d\d)_(a|b|c)_(proj_)?|(root)_)?(conv|norm)")
_PREFIX = "resnet/"
_HEAD_KEYS = {"kernel": f"{_PREFIX}head/conv2d/kernel", "bias": f"{_PREFIX}head/conv2d/bias"}


def load_bit_npz(model: keras.Model, path: str | os.PathLike, head: str = "load"):
    """Gives a BiT model the weights of a published checkpoint.

    >>> model = tfgn.models.BiT_R50x1(classes=37, classifier_activation=None)
    >>> tfgn.models.load_bit_npz(model, "BiT-M-R50x1.npz", head="zeros")

    The checkpoints are at `https://storage.googleapis.com/bit_models/`: `BiT-S-R50x1.npz` was
    trained on ImageNet (1000 classes), `BiT-M-R50x1.npz` on ImageNet-21k (21843 classes),
    `BiT-M-R50x1-ILSVRC2012.npz` then fine-tuned on ImageNet; and so on for the other sizes. The
    arrays are read without pickle. Nothing is assigned unless all of them are there and fit.

    Args:
        model: made by the `BiT_...` function of the checkpoint's size, with GroupNorm, weight
            standardization and the large stem.
        path: of the `.npz` file.
        head: `"load"` for the checkpoint's classes; `"zeros"` for other classes, as Big Transfer
            starts fine-tuning; `"leave"` for the head that the model has. A model without a top
            has none.

    Raises:
        ValueError: if the file is no such checkpoint, lacks an array, has one of another shape or
            arrays that the model has no layer for, or the model is not a BiT model; with the name
            of the array or layer.
        OSError: if the file cannot be read.

    Reference:
        [github.com/google-research/big_transfer](https://github.com/google-research/big_transfer)
    """
    if head not in _HEADS:
        names = ", ".join(map(repr, _HEADS))
        raise ValueError(f"`head` must be one of {names}. Received: head={head!r}")
    wanted = _backbone(model)
    top = next((layer for layer in model.layers if layer.name == "head"), None)
    if top is not None and head == "load":
        wanted += [(getattr(top, name), key) for name, key in _HEAD_KEYS.items()]
    arrays = _read(path)
    _check_nothing_left(arrays, {key for _, key in wanted}, path, model)
    values = [_value(arrays, key, variable, path) for variable, key in wanted]
    for (variable, _), value in zip(wanted, values, strict=True):
        variable.assign(value)
    if top is not None and head == "zeros":
        for variable in top.weights:
            variable.assign(np.zeros(variable.shape))


def _backbone(model: keras.Model) -> list[tuple[keras.Variable, str]]:
    """Returns the variables that a checkpoint has, and their names there."""
    wanted = []
    for layer in model.layers:
        match = _LAYER.fullmatch(layer.name)
        if match is None:
            continue
        block, unit, part, projection, root, kind = match.groups()
        kinds = {"conv": StandardizedConv2D, "norm": GroupNormalization}
        if not isinstance(layer, kinds[kind]) or getattr(layer, "bias", None) is not None:
            raise ValueError(
                "`model` must have GroupNorm and weight standardization, as the checkpoints of "
                f"Big Transfer do. Received: the model {model.name!r}, with the layer {layer!r}"
            )
        scope = _PREFIX + (f"block{block}/unit{unit}/{part}/" if block else "")
        scope += "root_block/" if root else "proj/" if projection else ""
        if kind == "conv":
            wanted.append((layer.kernel, f"{scope}standardized_conv2d/kernel"))
        else:
            wanted += [(getattr(layer, n), f"{scope}group_norm/{n}") for n in ("gamma", "beta")]
    if not wanted:
        raise ValueError(
            "`model` must be made by a BiT function of tfgn.models. "
            f"Received: the model {model.name!r}, which has none of their layers"
        )
    return wanted


def _read(path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a .npz file of plain arrays: {error}") from None


def _check_nothing_left(arrays, keys: set[str], path, model):
    left = sorted(k for k in arrays if k.startswith(f"{_PREFIX}block") and k not in keys)
    if left:
        raise ValueError(
            f"{path} is a checkpoint of another size than the model {model.name!r}, which has no "
            f"layer for its {left[0]!r} and {len(left) - 1} other arrays"
        )


def _value(arrays, key: str, variable, path) -> np.ndarray:
    if key not in arrays:
        raise ValueError(
            f"{path} has no array {key!r}: it is no checkpoint of Big Transfer for this model"
        )
    value = arrays[key]
    is_head = key == _HEAD_KEYS["kernel"]
    expected = (1, 1, *variable.shape) if is_head else tuple(variable.shape)
    if value.shape != expected:
        hint = "; for other classes than the checkpoint's use head='zeros'"
        raise ValueError(
            f"{path} has {key!r} in shape {value.shape} where the model needs {expected}"
            + (hint if key in _HEAD_KEYS.values() else "")
        )
    return value.reshape(variable.shape)
