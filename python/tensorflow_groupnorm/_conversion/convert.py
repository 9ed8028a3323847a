"""`tfgn.convert`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

import keras
from tfgn_base.variants import check_variant

from .._keras import inherit_state
from . import arguments, converted, copy, edit, rebuilt, rules
from .change import Build, Change
from .decide import decide
from .report import ConversionReport
from .walk import at, functional, walk

_DEFAULT_GROUPS = 32


def convert(
    model: keras.Model,
    norm: str | None = "gn",
    weight_standardization: str | dict | None = "bit",
    groups: int | None = None,
    *,
    group_size: int | None = None,
    epsilon: float | None = None,
    layer_normalization: bool = False,
    fuse: bool = True,
    keep: Iterable[str] | Callable[[keras.Layer], bool] = (),
    in_place: bool = False,
    report: Callable[[ConversionReport], object] | None = print,
) -> keras.Model:
    """Returns a copy of a model with GroupNorm and weight standardization in it.

    >>> model = tfgn.convert(keras.applications.ResNet50(weights=None))

    - `BatchNormalization` becomes `tfgn.layers.GroupNormalization` with its gamma, beta, epsilon,
      trainability and dtype. The moving statistics have no counterpart: the new model has to be
      fine-tuned. Where a mask reaches the layer, it is used as before (`use_mask=True`).
    - A stock `GroupNormalization` becomes the fused layer, with its own groups. The outputs stay
      the same if `weight_standardization` is None.
    - `LayerNormalization` normalizes each position by itself and is kept, unless asked otherwise.
    - Convolutions that a normalization follows become standardized ones with the same weights.
      Others stay as they are: without a normalization behind it a standardized kernel multiplies
      the scale of its input by about the square root of its fan-in (`"nfnet"` and `"timm_scaled"`
      divide by it; with them only the convolutions at the outputs are left). A batch normalization
      that is kept does not count: its moving statistics are those of the old kernel.
    - A ReLU or SiLU, and an addition of two tensors of one shape, that alone read the output of a
      replaced normalization become part of it: `relu(norm(x) + shortcut)` is one layer, under the
      name of the normalization. An operation that gives an output of the model stays.

    Where the groups do not divide the channels, the largest divisor below is taken.

    The new model saves and loads as what it is, whatever it is made of. A layer or model of a class
    with a `call` of its own is of a class derived from that class, with its methods; its config has
    the config of the original and the changes. Loading needs `import tensorflow_groupnorm` and, as
    always, the modules that register the model's own classes.

    Args:
        model: a built Keras model: functional, `Sequential`, subclassed, or nested. It is not
            changed. Under a layer or model with a `call` of its own, the layers that are made in
            `__init__` or `build` and held in attributes, lists, dicts and plain objects are
            replaced; nothing is fused. What follows a convolution is seen if the `call` runs on
            symbolic tensors; if not, a normalization is assumed where there are any.
        norm: `"gn"`, or None to leave the normalizations.
        weight_standardization: the name of a variant, see `tfgn.standardize_weights`; a dict with
            `variant` and, optionally, `epsilon` and `gain`; or None to leave the convolutions.
        groups: number of groups, 32 by default; -1 for as many as channels, 1 for all channels
            together. Where there is one value per channel (a vector, an image of one pixel), one
            group is used.
        group_size: channels per group, instead of `groups`.
        epsilon: of the new GroupNormalization layers; None for that of each replaced layer.
        layer_normalization: whether to replace `LayerNormalization` over the last axis of images
            or sequences as well.
        fuse: whether to take activations and additions into the normalizations.
        keep: names of layers to leave as they are, or a function from a layer to whether to
            leave it.
        in_place: whether to change the model itself and return it, instead of a copy: for models
            that cannot be made from a config. Other models that share layers with it must not be
            saved afterwards.
        report: is called with the `ConversionReport`: what was replaced, fused and kept, and why.
            `print` by default; None for no report.

    Returns:
        The new model, an instance of the class of the given one and of its name, compiled if that
        is, with a new optimizer.

    Raises:
        TypeError: if `model` is no Keras 3 model.
        ValueError: if it is not built, cannot be copied, or an argument is invalid.

    References:
        - [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494)
        - [Qiao et al., 2019, Weight Standardization](https://arxiv.org/abs/1903.10520)
    """
    _check_model(model)
    _check_groups(groups, group_size)
    if norm not in ("gn", None):
        raise ValueError(f"`norm` must be 'gn' or None. Received: norm={norm!r}")
    options = rules.Options(
        norm=norm,
        standardization=_standardization(weight_standardization),
        groups=_DEFAULT_GROUPS if groups is None else groups,
        group_size=group_size,
        epsilon=epsilon,
        layer_normalization=layer_normalization,
        fuse=fuse,
        keep=_keep(model, keep),
    )
    summary = ConversionReport(model.name)
    with copy.own_objects_known(model), copy.BlankWeights() as blank:
        new = _convert(model, options, summary, in_place, blank)
    if report is not None:
        report(summary)
    return new


def _convert(model, options, report, in_place, blank) -> keras.Model:
    """Copies, decides, changes the copy, and carries over the state."""
    new, pairs = model, []
    if in_place and copy.is_made_of_its_graph(model):
        rebuilt.mark(model, type(model))
    if not in_place:
        new = copy.copy(model, blank)
        pairs = copy.counterparts(model, new)
    changes = decide(model, options, report)
    changes += _made_again(pairs, {change.path for change in changes})
    for change in changes:
        blank.prepare(change.layer)
    replaced = {change.path: change.layer for change in changes}
    for path, old, other in pairs:
        if path not in replaced:
            copy.copy_state(old, other)
        inherit_state(old, other)
    originals = {path: at(model, path) for path in replaced}
    records = [
        (at(new, start), converted.describe(at(model, start), inside))
        for start, inside in _by_recorder(new, changes).items()
    ]
    edit.apply(new, changes)
    for path, old in originals.items():
        if type(old) is type(replaced[path]):
            copy.copy_state(old, replaced[path])
        else:
            copy.copy_replaced(old, replaced[path])
        replaced[path].trainable = old.trainable
    for layer, conversion in records:
        converted.mark(layer, conversion)
    report.notes += _notes_on_rebuilt(new)
    # Last, for an optimizer goes by what is trainable.
    for old, other in [(old, other) for _, old, other in pairs] or [(model, model)]:
        if isinstance(old, keras.Model) and old.compiled:
            _compile(old, other, report)
    return new


def _made_again(pairs, changed) -> list[Change]:
    """Returns changes of the layers that came out different in the copy into ones that did not."""
    return [
        Change(path, copy.from_config(old), type(old).__name__, Build.of(old))
        for path, old, new in pairs
        if path not in changed and copy.differs(old, new)
    ]


def _by_recorder(model, changes) -> dict:
    """Returns the changes by the paths to the layers whose configs have to tell of them.

    The config of a model of Keras' own class describes the layers inside as they are. Under a layer
    or model of another class, its own config does not.
    """
    recorders = {}
    for change in changes:
        for i in range(len(change.path)):
            holder = at(model, change.path[:i])
            if isinstance(holder, keras.Layer) and not copy.has_config_of_keras(holder):
                start = change.path[:i]
                recorders.setdefault(start, []).append(change.below(start))
                break
    return recorders


def _notes_on_rebuilt(model) -> list[str]:
    return [
        f"{layer.name} is saved as its graph, as its constructor cannot make it again: what is "
        f"loaded lacks its {', '.join(layer.not_saved())}"
        for _, layer in walk(model)
        if isinstance(layer, rebuilt.Rebuilt) and layer.not_saved()
    ]


def _compile(old, new, report):
    try:
        arguments.compile_like(old, new)
    except arguments.NotCopiedError as error:
        report.notes.append(f"{old.name} is not compiled: {error}")


def _check_model(model):
    if any(kind.__module__.partition(".")[0] == "tf_keras" for kind in type(model).__mro__):
        raise TypeError(
            "`model` must be a model of Keras 3. Received a model of tf-keras: save it with "
            "model.save('old.h5'), and `tfgn convert old.h5 new.keras` reads that file"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: model={model!r} of {type(model)}"
        )
    if not model.built or (isinstance(model, keras.Sequential) and functional(model) is None):
        raise ValueError(
            "`model` must be built, so that the channels of its layers are known: call it on data, "
            f"or build(input_shape). Received: the model {model.name!r}, which is not built"
        )


def _check_groups(groups, group_size):
    if groups is not None and (not isinstance(groups, int) or groups < -1 or groups == 0):
        raise ValueError(f"`groups` must be a positive integer or -1. Received: groups={groups!r}")
    if group_size is not None and (not isinstance(group_size, int) or group_size < 1):
        raise ValueError(
            "`group_size` must be None or a positive integer, the number of channels per group. "
            f"Received: group_size={group_size!r}"
        )
    if groups is not None and group_size is not None:
        raise ValueError(
            "Give either `groups` or `group_size`, not both. "
            f"Received: groups={groups}, group_size={group_size}"
        )


def _standardization(given) -> dict | None:
    if given is None:
        return None
    standardization = {"variant": given} if not isinstance(given, dict) else dict(given)
    unknown = standardization.keys() - {"variant", "epsilon", "gain"}
    if unknown or "variant" not in standardization:
        raise ValueError(
            "`weight_standardization` as a dict has the key 'variant' and optionally 'epsilon' and "
            f"'gain'. Received: weight_standardization={given!r}"
        )
    try:
        check_variant(standardization["variant"], standardization.get("epsilon"))
    except ValueError as error:
        raise ValueError(f"`weight_standardization`: {error}") from None
    return standardization


def _keep(model, keep) -> Callable[[keras.Layer], bool]:
    if callable(keep):
        return keep
    names = {keep} if isinstance(keep, str) else set(keep)
    known = {layer.name for _, layer in walk(model)}
    for name in sorted(names - known):
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; close are {', '.join(map(repr, close))}" if close else ""
        raise ValueError(
            f"`keep` must name layers of the model. Received: keep={sorted(names)}, of which "
            f"{name!r} is the name of none{hint}"
        )
    return lambda layer: layer.name in names
