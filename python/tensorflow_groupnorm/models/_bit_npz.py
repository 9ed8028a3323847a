"""The published checkpoints of Big Transfer."""

import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import numpy as np

from ..layers import GroupNormalization, RecomputedNormalization, StandardizedConv2D

_HEADS = ("load", "zeros", "leave")
_LAYER = re.compile(r"(?:block(\d)_unit(\d\d)_(a|b|c)_(proj_)?|(root)_)?(conv|norm)")
_PREFIX = "resnet/"
_HEAD_KEYS = {"kernel": f"{_PREFIX}head/conv2d/kernel", "bias": f"{_PREFIX}head/conv2d/bias"}


def load_bit_npz(
    model: keras.Model,
    path: str | os.PathLike[str],
    head: Literal["load", "zeros", "leave"] = "load",
) -> None:
    """Loads the weights of a published checkpoint into a BiT model.

    >>> model = tfgn.models.BiT_R50x1(classes=37, classifier_activation=None)
    >>> tfgn.models.load_bit_npz(model, "BiT-M-R50x1.npz", head="zeros")

    The checkpoints are at `https://storage.googleapis.com/bit_models/`: `BiT-S-R50x1.npz` was
    trained on ImageNet (1000 classes), `BiT-M-R50x1.npz` on ImageNet-21k (21843 classes),
    `BiT-M-R50x1-ILSVRC2012.npz` then fine-tuned on ImageNet. The other sizes are named likewise.
    The arrays are read without pickle. After an error the model still has its old weights.

    Args:
        model: a model made by the `BiT_...` function of the checkpoint's size, with GroupNorm,
            weight standardization and the large stem.
        path: path of the `.npz` file.
        head: `"load"` loads the head, for the classes of the checkpoint; `"zeros"` sets it to 0,
            for other classes, as Big Transfer does before fine-tuning; `"leave"` does not change
            it. A model without a top has no head.

    Raises:
        ValueError: if the file is not such a checkpoint, lacks an array, has an array of another
            shape or one for which the model has no layer, or if the model is not a BiT model. The
            message names the array or the layer.
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
    """Returns the variables of the model, each with the name of its array in a checkpoint."""
    wanted = []
    for layer in _layers(model):
        match = _LAYER.fullmatch(layer.name)
        if match is None:
            continue
        block, unit, part, projection, root, kind = match.groups()
        kinds: dict[str, type[Any]] = {"conv": StandardizedConv2D, "norm": GroupNormalization}
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


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, RecomputedNormalization):
            yield from (layer.normalization, *layer.layers)
        else:
            yield layer


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a .npz file of plain arrays: {error}") from None


def _check_nothing_left(
    arrays: Mapping[str, np.ndarray],
    keys: set[str],
    path: str | os.PathLike[str],
    model: keras.Model,
) -> None:
    left = sorted(k for k in arrays if k.startswith(f"{_PREFIX}block") and k not in keys)
    if left:
        raise ValueError(
            f"{path} is a checkpoint of another size than the model {model.name!r}, which has no "
            f"layer for {left[0]!r} and {len(left) - 1} other arrays"
        )


def _value(
    arrays: Mapping[str, np.ndarray],
    key: str,
    variable: keras.Variable,
    path: str | os.PathLike[str],
) -> np.ndarray:
    if key not in arrays:
        raise ValueError(
            f"{path} has no array {key!r}: it is not a checkpoint of Big Transfer for this model"
        )
    value = arrays[key]
    is_head = key == _HEAD_KEYS["kernel"]
    expected = (1, 1, *variable.shape) if is_head else tuple(variable.shape)
    if value.shape != expected:
        hint = "; use head='zeros' for other classes than those of the checkpoint"
        raise ValueError(
            f"{path} has {key!r} in shape {value.shape} where the model needs {expected}"
            + (hint if key in _HEAD_KEYS.values() else "")
        )
    return value.reshape(variable.shape)
