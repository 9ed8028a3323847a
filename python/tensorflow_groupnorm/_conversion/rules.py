"""The decisions about a normalization, and about a layer with a kernel."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
from tfgn_base.variants import VARIANTS

from .. import layers
from ..layers._kernel_weights import output_axes
from ..layers._standardized_weights import HasStandardizedWeights
from .arguments import config_of
from .network import AT_OUTPUT, BEFORE_KEPT, BEFORE_KERNEL, NORMALIZATIONS

_CARRIED = (
    *("name", "trainable", "dtype", "epsilon", "center", "scale"),
    *("beta_initializer", "gamma_initializer", "beta_regularizer", "gamma_regularizer"),
    *("beta_constraint", "gamma_constraint"),
)
_STANDARDIZED: dict[type, Any] = {
    keras.layers.Conv1D: layers.StandardizedConv1D,
    keras.layers.Conv2D: layers.StandardizedConv2D,
    keras.layers.Conv3D: layers.StandardizedConv3D,
    keras.layers.Conv1DTranspose: layers.StandardizedConv1DTranspose,
    keras.layers.Conv2DTranspose: layers.StandardizedConv2DTranspose,
    keras.layers.Conv3DTranspose: layers.StandardizedConv3DTranspose,
    keras.layers.DepthwiseConv2D: layers.StandardizedDepthwiseConv2D,
    keras.layers.SeparableConv2D: layers.StandardizedSeparableConv2D,
}
_WRAPPED = (keras.layers.DepthwiseConv1D, keras.layers.SeparableConv1D)
_CONVOLUTIONS = (*_STANDARDIZED, *_WRAPPED)

#: The reason for a convolution in a layer with normalizations whose `call` cannot be traced.
ASSUMED = "what follows it in call() is not known; assumed to be a normalization"

#: The reason for a layer that a model or layer holds but does not call in its graph.
OUTSIDE = "it is called outside of the graph, if at all; what follows it is not known"

#: The variables of a batch normalization that other normalizations do not have.
MOVING_STATISTICS = ("moving_mean", "moving_variance")

#: As many groups as the paper has, of at least 8 channels each. In its ablation on ImageNet (Wu &
#: He, 2018, table 3), groups of 8 or 16 channels are as good as 32 groups, smaller ones get worse,
#: and those of one channel are the worst.
MOST_GROUPS, FEWEST_CHANNELS = 32, 8

#: Statistics of fewer numbers are noise: their relative standard error exceeds 1 / sqrt(32).
FEWEST_NUMBERS = 32


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `convert`, checked."""

    norm: str | None
    standardization: dict[str, Any] | None
    groups: int | None
    group_size: int | None
    epsilon: float | None
    layer_normalization: bool
    fuse: bool
    save_memory: bool
    keep: Callable[[keras.Layer], bool]


@dataclasses.dataclass(frozen=True)
class Decision:
    """Whether to keep or to replace a layer.

    Attributes:
        make: makes the replacement, or None to keep the layer. For a normalization, it takes the
            activation to fuse.
        result: the replacement in words.
        reason: why the layer is kept, or how the result differs from what was asked for.
        drops: names of weights that the replacement does not have.
        same: whether the replacement computes what the layer computes.
        few: the number of numbers in a group if it is below `FEWEST_NUMBERS`, or None.
    """

    make: Callable[..., keras.Layer] | None = None
    result: str = ""
    reason: str = ""
    drops: tuple[str, ...] = ()
    same: bool = False
    few: int | None = None


def counts(layer: keras.Layer, options: Options) -> bool:
    """Returns whether a normalization makes the scale of a standardized kernel irrelevant.

    Layer, RMS and group normalization do. Batch normalization does not while it uses its moving
    statistics, which belong to the old kernel: it has to be replaced or trained further.
    """
    if not isinstance(layer, keras.layers.BatchNormalization):
        return True
    if options.norm is None:
        return layer.trainable and not options.keep(layer)
    return normalization(layer, options).make is not None


def concerns(layer: keras.Layer, options: Options) -> bool:
    """Returns whether the report of a conversion lists a layer of this kind."""
    if isinstance(layer, NORMALIZATIONS):
        return options.norm is not None
    has_kernel = has_own_kernel(layer) or isinstance(layer, HasStandardizedWeights)
    return options.standardization is not None and has_kernel


def has_own_kernel(layer: keras.Layer) -> bool:
    """Returns whether a layer is a convolution or a Dense layer, standardized or not."""
    return isinstance(layer, (*_CONVOLUTIONS, keras.layers.Dense))


# Normalizations


def normalization(layer: keras.Layer, options: Options, masked: bool = False) -> Decision:
    """Decides about a normalization layer.

    Args:
        layer: the layer.
        options: the arguments of `convert`.
        masked: whether its input has a mask.
    """
    if options.keep(layer):
        return Decision(reason="named in `keep`")
    if not layer.built:
        return Decision(reason="it is never called: its channels are not known")
    kind = type(layer)
    if kind is keras.layers.GroupNormalization:
        config = config_of(layer)
        return Decision(
            lambda activation=None: layers.GroupNormalization.from_config(
                {**config, "activation": activation}
            ),
            f"fused GroupNormalization, {_groups_text(layer.groups)}",
            same=True,
        )
    if kind is layers.GroupNormalization:
        return Decision(reason="fused already")
    if kind is keras.layers.LayerNormalization:
        refusal = _why_keep_layer_normalization(layer, options)
        if refusal:
            return Decision(reason=refusal)
        reason = "statistics over all positions, instead of each position's own"
        return _to_group_normalization(layer, options, reason)
    if kind is keras.layers.BatchNormalization:
        return _to_group_normalization(layer, options, masked=masked)
    return Decision(reason="only Keras' own Batch-, Layer- and GroupNormalization are replaced")


def _why_keep_layer_normalization(layer: keras.Layer, options: Options) -> str | None:
    shape = _input_shape(layer)
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if len(axes) != 1:
        return "it normalizes several axes, with weights for each position"
    if len(shape) == 2:
        return "it normalizes a vector, as GroupNormalization with one group does"
    if not options.layer_normalization:
        return "it normalizes each position by itself, which no GroupNormalization does"
    return None


def _to_group_normalization(
    layer: keras.Layer, options: Options, reason: str = "", masked: bool = False
) -> Decision:
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    shape = _input_shape(layer)
    channels = shape[axis]
    assert channels is not None  # Keras builds no normalization without them.
    others = [n for i, n in enumerate(shape) if i not in (0, axis % len(shape))]
    known = [n for n in others if n is not None]
    values = math.prod(known) if len(known) == len(others) else None
    if values == 1 and channels == 1:
        return Decision(reason="there is one value per sample: nothing to normalize it with")
    arguments, note = _choose_groups(channels, values, options)
    config = {key: value for key, value in config_of(layer).items() if key in _CARRIED}
    config |= arguments | {"axis": axis}
    mask_note = ""
    if masked:
        config["use_mask"] = True
        mask_note = "its statistics leave out masked positions (use_mask=True)"
    if options.epsilon is not None:
        config["epsilon"] = options.epsilon
    batch = isinstance(layer, keras.layers.BatchNormalization)
    numbers = None if values is None else values * (channels // _groups(channels, **arguments))
    return Decision(
        lambda activation=None: layers.GroupNormalization.from_config(
            {**config, "activation": activation}
        ),
        f"GroupNormalization, {_division_text(channels, **arguments)}",
        "; ".join(filter(None, (reason, note, mask_note))),
        drops=MOVING_STATISTICS if batch else (),
        few=numbers if numbers and numbers < FEWEST_NUMBERS else None,
    )


def _groups(channels: int, groups: int = -1, group_size: int | None = None) -> int:
    if group_size is not None:
        return channels // group_size
    return channels if groups == -1 else groups


def _choose_groups(
    channels: int, values: int | None, options: Options
) -> tuple[dict[str, int], str]:
    """Returns the arguments of the layer, and how they differ from what was asked for."""
    if values == 1:
        # More groups would have few channels each. With one, the normalized value is 0.
        differs = options.groups != 1 or options.group_size is not None
        return {"groups": 1}, "one value per channel: a single group" if differs else ""
    if options.group_size is not None:
        size = _largest_divisor(channels, options.group_size)
        if size == options.group_size:
            return {"group_size": size}, ""
        note = f"groups of {options.group_size} do not divide {channels} channels"
        return {"group_size": size}, note + _instance_note(size)
    if options.groups is None:
        return _default_groups(channels)
    if options.groups == -1:
        return {"groups": -1}, ""
    groups = _largest_divisor(channels, options.groups)
    note = "" if groups == options.groups else _undivided(options.groups, channels)
    return {"groups": groups}, note + _instance_note(channels // groups, bool(note))


def _default_groups(channels: int) -> tuple[dict[str, int], str]:
    if channels < MOST_GROUPS * FEWEST_CHANNELS:
        most = max(1, channels // FEWEST_CHANNELS)
        size = channels // _largest_divisor(channels, most)
        return {"group_size": size}, f"{MOST_GROUPS} groups would leave fewer"
    groups = _largest_divisor(channels, MOST_GROUPS)
    return {"groups": groups}, "" if groups == MOST_GROUPS else _undivided(MOST_GROUPS, channels)


def _undivided(groups: int, channels: int) -> str:
    return f"{groups} do not divide {channels} channels"


def _instance_note(size: int, after_other: bool = True) -> str:
    note = "one channel per group, that is instance normalization"
    return ("; " if after_other else "") + note if size == 1 else ""


def _largest_divisor(number: int, limit: int) -> int:
    return next(n for n in range(min(number, limit), 0, -1) if number % n == 0)


def _groups_text(groups: int) -> str:
    return f"{groups} group" + ("s" if groups != 1 else "")


def _division_text(channels: int, groups: int = -1, group_size: int | None = None) -> str:
    """Returns how a layer divides its channels, in terms of the argument that was given."""
    if group_size is not None:
        return f"{group_size} channel{'s' if group_size != 1 else ''} per group"
    return _groups_text(channels if groups == -1 else groups)


def _input_shape(layer: keras.Layer) -> tuple[int | None, ...]:
    """Returns the shape that a normalization was built for, as far as it is known."""
    build_config = layer.get_build_config() or {}
    if "input_shape" in build_config:
        return tuple(build_config["input_shape"])
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    shape: list[int | None] = [None] * (axis + 2 if axis >= 0 else 1 - axis)
    shape[axis] = next(iter(layer.weights)).shape[0] if layer.weights else None
    return tuple(shape)


# Layers with a kernel


def kernel(layer: keras.Layer, options: Options, not_normalized: str | None) -> Decision:
    """Decides about a layer with a kernel.

    Args:
        layer: the layer.
        options: the arguments of `convert`; `options.standardization` is not None.
        not_normalized: why no normalization follows it, or None if one does.
    """
    assert options.standardization is not None
    if options.keep(layer):
        return Decision(reason="named in `keep`")
    if isinstance(layer, HasStandardizedWeights):
        return Decision(reason="standardized already")
    if not layer.built:
        return Decision(reason="it is never called: its kernel does not exist")
    if isinstance(layer, keras.layers.Dense):
        return Decision(reason="weight standardization is for convolutions")
    if type(layer) not in _CONVOLUTIONS:
        return Decision(reason="only Keras' own convolutions are replaced")
    if layer.quantization_mode is not None:
        return Decision(reason="its kernel is quantized")
    if getattr(layer, "lora_enabled", False):
        return Decision(reason="it has a LoRA delta beside its kernel")
    for name, axes in output_axes(layer).items():
        shape = tuple(getattr(layer, name).shape)
        if math.prod(shape) == math.prod(shape[axis] for axis in axes):
            return Decision(reason=f"one weight per output channel in its {name}: it would be 0")
    scaled = VARIANTS[options.standardization["variant"]].scale_by_fan_in
    if not_normalized in (AT_OUTPUT, OUTSIDE, BEFORE_KEPT):
        return Decision(reason=not_normalized)
    if not_normalized == BEFORE_KERNEL and not scaled:
        return Decision(reason=not_normalized)
    make, result = _standardized(layer, options.standardization)
    return Decision(make, result, not_normalized if not_normalized == ASSUMED else "")


def _standardized(
    layer: keras.Layer, arguments: dict[str, Any]
) -> tuple[Callable[[], keras.Layer], str]:
    config = config_of(layer)
    if type(layer) in _STANDARDIZED:
        cls = _STANDARDIZED[type(layer)]
        result = f"Standardized{type(layer).__name__}"
        return lambda: cls.from_config({**config, **arguments}), result

    def wrapped() -> keras.Layer:
        inner = type(layer).from_config(config)
        return layers.WeightStandardization(inner, name=layer.name, **arguments)

    return wrapped, f"WeightStandardization({type(layer).__name__})"
