"""`tfgn.convert`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import keras
from tfgn_base.variants import check_variant

from .._keras import inherit_state, operations_between
from ..layers._tensors import check_groups
from . import arguments, converted, copy, edit, rebuilt, rules
from .change import Build, Change, Pair
from .decide import decide
from .pairs import find_pairs
from .report import ConversionReport
from .walk import Path, at, functional, walk

_Change = TypeVar("_Change", Change, Pair)


def convert(
    model: keras.Model,
    norm: str | None = "gn",
    weight_standardization: str | dict[str, Any] | None = "bit",
    groups: int | None = None,
    *,
    group_size: int | None = None,
    epsilon: float | None = None,
    layer_normalization: bool = False,
    fuse: bool = True,
    save_memory: bool = False,
    keep: Iterable[str] | Callable[[keras.Layer], bool] = (),
    in_place: bool = False,
    report: Callable[[ConversionReport], object] | None = print,
) -> keras.Model:
    """Returns a copy of a model with GroupNorm and weight standardization.

    >>> model = tfgn.convert(keras.applications.ResNet50(weights=None))

    - `BatchNormalization` is replaced by `tfgn.layers.GroupNormalization` with the same gamma,
      beta, epsilon, dtype and `trainable`. The moving statistics have no counterpart. If a mask
      reaches the layer, the new one uses it too (`use_mask=True`).
    - A stock `GroupNormalization` is replaced by the fused layer with the same groups. With
      `weight_standardization=None`, the outputs stay the same.
    - `LayerNormalization` normalizes each position separately and is kept by default.
    - A convolution that is followed by a normalization is standardized and keeps its weights.
      Other convolutions are kept: without a normalization after it, a standardized kernel
      multiplies the scale of its input by about the square root of its fan-in. The variants
      `"nfnet"` and `"timm_scaled"` divide by that factor, so they keep only the convolutions at
      the outputs. A batch normalization that is kept does not count as a normalization here: its
      moving statistics belong to the old kernel.
    - A replaced normalization absorbs a ReLU or SiLU, and an addition of two tensors of the same
      shape, if nothing else reads its output: `relu(norm(x) + shortcut)` becomes one layer with the
      name of the normalization. An operation that produces an output of the model is kept.

    By default, a normalization gets 32 groups if they have at least 8 channels each, else as many
    as have: 8 groups for 64 channels, 2 for 16. If a number of groups does not divide the channels,
    the largest smaller divisor is used. The report tells the groups of each layer.

    Fine-tune the new model before use: its outputs differ.

    The new model can be saved and loaded, whatever its classes. Layers and models with a `call` of
    their own get a class derived from their original class, whose config holds the original config
    and the changes. Loading needs `import tensorflow_groupnorm` and the modules that register the
    model's own classes.

    Args:
        model: a built Keras model: functional, `Sequential`, subclassed or nested. It does not
            change. In a layer or model with a `call` of its own, the layers that `__init__` or
            `build` made are replaced if attributes, lists, dicts or plain objects hold them.
            Nothing is fused there. Whether a normalization follows a convolution is known if the
            `call` can be traced with symbolic tensors. Otherwise it is assumed if the layer
            contains normalizations.
        norm: `"gn"`, or None to keep the normalizations.
        weight_standardization: a variant of `tfgn.standardize_weights`; a dict with `variant` and
            optionally `epsilon` and `gain`; or None to keep the convolutions.
        groups: number of groups for all layers, 32 in the paper; for the default, see above. -1 is
            one group per channel, 1 is one group of all channels. One group is used for inputs with
            one value per channel (vectors and images of one pixel).
        group_size: channels per group for all layers, instead of `groups`.
        epsilon: epsilon of the new GroupNormalization layers, or None for that of each replaced
            layer.
        layer_normalization: whether to also replace `LayerNormalization` over the last axis of
            images or sequences.
        fuse: whether normalizations absorb activations and additions.
        save_memory: whether to put each GroupNormalization, together with the convolutions and
            `Dense` layers that read its output, into a `tfgn.layers.RecomputedNormalization`, which
            does not keep that output for the backward pass. Outputs, losses and gradients are those
            without it. Normalizations whose output something else keeps stay on their own; the
            report says what. The layers keep their names but are no longer layers of the model
            itself: `get_layer` finds the pair under the name of the normalization.
        keep: names of layers to keep, or a function that returns whether to keep a layer. They are
            not put into pairs either.
        in_place: whether to change and return the model itself instead of a copy, for models that
            cannot be copied by their config. Do not save other models that share layers with it
            afterwards.
        report: called with a `ConversionReport` of what was replaced, fused and kept, and why.
            None for no report.

    Returns:
        The new model, with the class and name of `model`. If `model` is compiled, so is the new
        model, with a new optimizer.

    Raises:
        TypeError: if `model` is not a Keras 3 model.
        ValueError: if `model` is not built or cannot be copied, or if an argument is invalid.

    References:
        - [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494)
        - [Qiao et al., 2019, Weight Standardization](https://arxiv.org/abs/1903.10520)
    """
    check_model(model)
    _check_groups(groups, group_size)
    if norm not in ("gn", None):
        raise ValueError(f"`norm` must be 'gn' or None. Received: norm={norm!r}")
    options = rules.Options(
        norm=norm,
        standardization=_standardization(weight_standardization),
        groups=groups,
        group_size=group_size,
        epsilon=epsilon,
        layer_normalization=layer_normalization,
        fuse=fuse,
        save_memory=save_memory,
        keep=_keep(model, keep),
    )
    summary = ConversionReport(model.name)
    with copy.own_objects_known(model), copy.BlankWeights() as blank:
        new = _convert(model, options, summary, in_place, blank)
    if report is not None:
        report(summary)
    return new


def _convert(
    model: keras.Model,
    options: rules.Options,
    report: ConversionReport,
    in_place: bool,
    blank: copy.BlankWeights,
) -> keras.Model:
    """Copies the model, decides on the changes, applies them and copies the state."""
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
    if options.save_memory:
        _pair(new, options, report)
    report.notes += _notes_on_rebuilt(new)
    # Last, as an optimizer is built for the trainable variables.
    for old, other in [(old, other) for _, old, other in pairs] or [(model, model)]:
        if isinstance(old, keras.Model) and old.compiled:
            _compile(old, other, report)
    return new


def _pair(model: keras.Model, options: rules.Options, report: ConversionReport) -> None:
    pairs = find_pairs(model, options.keep, report)
    records = [
        (at(model, start), converted.describe(at(model, start), pairs=inside))
        for start, inside in _by_recorder(model, pairs).items()
    ]
    edit.pair(model, pairs)
    for layer, conversion in records:
        converted.mark(layer, conversion)


def pair_between(inputs: Sequence[keras.KerasTensor], model: keras.Model) -> keras.Model:
    """Does in place what `save_memory` does, with the layers between some tensors and the outputs.

    Args:
        inputs: tensors of the graph of the model.
        model: a functional model of Keras' own class.

    Returns:
        The model.
    """
    between = {id(operation) for operation in operations_between(inputs, model.outputs)}
    unread = ConversionReport(model.name)
    edit.pair(model, find_pairs(model, lambda layer: id(layer) not in between, unread))
    return model


def _made_again(pairs: copy.Pairs, changed: set[Path]) -> list[Change]:
    """Returns changes that replace layers whose arguments differ in the copy."""
    return [
        Change(path, copy.from_config(old), type(old).__name__, Build.of(old))
        for path, old, new in pairs
        if path not in changed and copy.differs(old, new)
    ]


def _by_recorder(model: keras.Model, changes: list[_Change]) -> dict[Path, list[_Change]]:
    """Groups the changes by the paths of the layers whose configs have to record them.

    The config of a model of Keras' own class describes the layers inside as they are. That of a
    layer or model of another class does not.
    """
    recorders: dict[Path, list[_Change]] = {}
    for change in changes:
        for i in range(len(change.path)):
            holder = at(model, change.path[:i])
            if isinstance(holder, keras.Layer) and not copy.has_config_of_keras(holder):
                start = change.path[:i]
                recorders.setdefault(start, []).append(change.below(start))
                break
    return recorders


def _notes_on_rebuilt(model: keras.Model) -> list[str]:
    return [
        f"{layer.name} is saved as its graph, because its constructor cannot make it again: the "
        f"loaded model lacks its {', '.join(not_saved)}"
        for _, layer in walk(model)
        if isinstance(layer, rebuilt.Rebuilt) and (not_saved := layer.not_saved())
    ]


def _compile(old: keras.Model, new: keras.Model, report: ConversionReport) -> None:
    try:
        arguments.compile_like(old, new)
    except arguments.NotCopiedError as error:
        report.notes.append(f"{old.name} is not compiled: {error}")


def check_model(model: keras.Model) -> None:
    """Raises TypeError or ValueError unless `model` is a built model of Keras 3."""
    if any(kind.__module__.partition(".")[0] == "tf_keras" for kind in type(model).__mro__):
        raise TypeError(
            "`model` must be a model of Keras 3. Received a model of tf-keras: save it with "
            "model.save('old.h5') and convert the file with `tfgn convert old.h5 new.keras`"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: model={model!r} of {type(model)}"
        )
    if not model.built or (isinstance(model, keras.Sequential) and functional(model) is None):
        raise ValueError(
            "`model` must be built, so that the channels of its layers are known: call it on a "
            f"batch, or call build(input_shape). Received: {model.name!r}, which is not built"
        )


def _check_groups(groups: int | None, group_size: int | None) -> None:
    if groups is not None and (not isinstance(groups, int) or groups < -1 or groups == 0):
        raise ValueError(f"`groups` must be a positive integer or -1. Received: groups={groups!r}")
    check_groups(groups, group_size)


def _standardization(given: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    standardization: dict[str, Any] = dict(given) if isinstance(given, dict) else {"variant": given}
    unknown = standardization.keys() - {"variant", "epsilon", "gain"}
    if unknown or "variant" not in standardization:
        raise ValueError(
            "`weight_standardization` as a dict must have the key 'variant' and may have 'epsilon' "
            f"and 'gain'. Received: weight_standardization={given!r}"
        )
    try:
        check_variant(standardization["variant"], standardization.get("epsilon"))
    except ValueError as error:
        raise ValueError(f"`weight_standardization`: {error}") from None
    return standardization


def _keep(
    model: keras.Model, keep: Iterable[str] | Callable[[keras.Layer], bool]
) -> Callable[[keras.Layer], bool]:
    if callable(keep):
        return keep
    names = {keep} if isinstance(keep, str) else set(keep)
    known = {layer.name for _, layer in walk(model)}
    for name in sorted(names - known):
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; similar names are {', '.join(map(repr, close))}" if close else ""
        raise ValueError(
            f"`keep` must name layers of the model. Received: keep={sorted(names)}, but no layer "
            f"is named {name!r}{hint}"
        )
    return lambda layer: layer.name in names
