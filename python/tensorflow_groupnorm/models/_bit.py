"""The ResNets (v2) of Big Transfer."""

from collections.abc import Sequence
from typing import Literal

import keras

from ._parts import Ends, Style, channels, documented_like, max_pool
from ._resnet import ResNet

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4


def _build(units: Sequence[int], factor: int, style: Style, ends: Ends, name: str) -> keras.Model:
    images = ends.begin()
    x = _root(images, factor * _WIDTHS[0], style)
    for block, (count, width) in enumerate(zip(units, _WIDTHS, strict=True)):
        for unit in range(count):
            strides = 2 if block > 0 and unit == 0 else 1
            x = _unit(x, factor * width, strides, style, f"block{block + 1}_unit{unit + 1:02}")
    x = style.normalize(x, activation="relu", name="norm")
    return style.finish(images, ends.finish(images, x, name))


def _root(images: keras.KerasTensor, filters: int, style: Style) -> keras.KerasTensor:
    if style.stem == "small":
        return style.conv(images, filters, 3, name="root_conv")
    # Neither normalized nor rectified: the zeros of the padding take part in the maximum.
    return max_pool(style.conv(images, filters, 7, 2, name="root_conv"), "root_pool")


def _unit(
    x: keras.KerasTensor, width: int, strides: int, style: Style, prefix: str
) -> keras.KerasTensor:
    filters = _EXPANSION * width
    shortcut = x
    x = style.normalize(x, activation="relu", name=f"{prefix}_a_norm")
    if strides > 1 or channels(shortcut) != filters:
        shortcut = style.conv(x, filters, 1, strides, name=f"{prefix}_a_proj_conv")
    x = style.conv(x, width, 1, name=f"{prefix}_a_conv")
    x = style.normalize(x, activation="relu", name=f"{prefix}_b_norm")
    x = style.conv(x, width, 3, strides, name=f"{prefix}_b_conv")
    x = style.normalize(x, activation="relu", name=f"{prefix}_c_norm")
    x = style.conv(x, filters, 1, name=f"{prefix}_c_conv")
    return keras.layers.Add(name=f"{prefix}_add")([x, shortcut])


@documented_like(ResNet)
def BiT_R50x1(
    include_top: bool = True,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    *,
    norm: Literal["gn", "bn"] | None = "gn",
    weight_standardization: str | None = "bit",
    groups: int | None = None,
    group_size: int | None = None,
    epsilon: float = 1e-5,
    stem: Literal["large", "small"] = "large",
    save_memory: bool = False,
    name: str = "bit_r50x1",
) -> keras.Model:
    """The ResNet (v2) of 50 layers and width 1 of Big Transfer.

    The defaults are those of the published checkpoints: GroupNorm with 32 groups and an epsilon of
    1e-5, kernels standardized with an epsilon of 1e-10. Scale the images to [-1, 1], as
    `keras.applications.resnet_v2.preprocess_input` does.

    >>> model = BiT_R50x1(classes=10, classifier_activation=None)
    >>> load_bit_npz(model, "BiT-M-R50x1.npz", head="zeros")

    Arguments, result and errors are those of `ResNet`.

    References:
        - [Kolesnikov et al., 2019, Big Transfer](https://arxiv.org/abs/1912.11370)
        - [He et al., 2016, Identity mappings](https://arxiv.org/abs/1603.05027)
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((3, 4, 6, 3), 1, style, ends, name)


@documented_like(ResNet)
def BiT_R50x3(
    include_top: bool = True,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    *,
    norm: Literal["gn", "bn"] | None = "gn",
    weight_standardization: str | None = "bit",
    groups: int | None = None,
    group_size: int | None = None,
    epsilon: float = 1e-5,
    stem: Literal["large", "small"] = "large",
    save_memory: bool = False,
    name: str = "bit_r50x3",
) -> keras.Model:
    """The ResNet (v2) of 50 layers and width 3 of Big Transfer.

    The defaults are those of the published checkpoints: GroupNorm with 32 groups and an epsilon of
    1e-5, kernels standardized with an epsilon of 1e-10. Scale the images to [-1, 1], as
    `keras.applications.resnet_v2.preprocess_input` does.

    >>> model = BiT_R50x3(classes=10, classifier_activation=None)
    >>> load_bit_npz(model, "BiT-M-R50x3.npz", head="zeros")

    Arguments, result and errors are those of `ResNet`.

    References:
        - [Kolesnikov et al., 2019, Big Transfer](https://arxiv.org/abs/1912.11370)
        - [He et al., 2016, Identity mappings](https://arxiv.org/abs/1603.05027)
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((3, 4, 6, 3), 3, style, ends, name)


@documented_like(ResNet)
def BiT_R101x1(
    include_top: bool = True,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    *,
    norm: Literal["gn", "bn"] | None = "gn",
    weight_standardization: str | None = "bit",
    groups: int | None = None,
    group_size: int | None = None,
    epsilon: float = 1e-5,
    stem: Literal["large", "small"] = "large",
    save_memory: bool = False,
    name: str = "bit_r101x1",
) -> keras.Model:
    """The ResNet (v2) of 101 layers and width 1 of Big Transfer.

    The defaults are those of the published checkpoints: GroupNorm with 32 groups and an epsilon of
    1e-5, kernels standardized with an epsilon of 1e-10. Scale the images to [-1, 1], as
    `keras.applications.resnet_v2.preprocess_input` does.

    >>> model = BiT_R101x1(classes=10, classifier_activation=None)
    >>> load_bit_npz(model, "BiT-M-R101x1.npz", head="zeros")

    Arguments, result and errors are those of `ResNet`.

    References:
        - [Kolesnikov et al., 2019, Big Transfer](https://arxiv.org/abs/1912.11370)
        - [He et al., 2016, Identity mappings](https://arxiv.org/abs/1603.05027)
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((3, 4, 23, 3), 1, style, ends, name)


@documented_like(ResNet)
def BiT_R101x3(
    include_top: bool = True,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    *,
    norm: Literal["gn", "bn"] | None = "gn",
    weight_standardization: str | None = "bit",
    groups: int | None = None,
    group_size: int | None = None,
    epsilon: float = 1e-5,
    stem: Literal["large", "small"] = "large",
    save_memory: bool = False,
    name: str = "bit_r101x3",
) -> keras.Model:
    """The ResNet (v2) of 101 layers and width 3 of Big Transfer.

    The defaults are those of the published checkpoints: GroupNorm with 32 groups and an epsilon of
    1e-5, kernels standardized with an epsilon of 1e-10. Scale the images to [-1, 1], as
    `keras.applications.resnet_v2.preprocess_input` does.

    >>> model = BiT_R101x3(classes=10, classifier_activation=None)
    >>> load_bit_npz(model, "BiT-M-R101x3.npz", head="zeros")

    Arguments, result and errors are those of `ResNet`.

    References:
        - [Kolesnikov et al., 2019, Big Transfer](https://arxiv.org/abs/1912.11370)
        - [He et al., 2016, Identity mappings](https://arxiv.org/abs/1603.05027)
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((3, 4, 23, 3), 3, style, ends, name)


@documented_like(ResNet)
def BiT_R152x2(
    include_top: bool = True,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    *,
    norm: Literal["gn", "bn"] | None = "gn",
    weight_standardization: str | None = "bit",
    groups: int | None = None,
    group_size: int | None = None,
    epsilon: float = 1e-5,
    stem: Literal["large", "small"] = "large",
    save_memory: bool = False,
    name: str = "bit_r152x2",
) -> keras.Model:
    """The ResNet (v2) of 152 layers and width 2 of Big Transfer.

    The defaults are those of the published checkpoints: GroupNorm with 32 groups and an epsilon of
    1e-5, kernels standardized with an epsilon of 1e-10. Scale the images to [-1, 1], as
    `keras.applications.resnet_v2.preprocess_input` does.

    >>> model = BiT_R152x2(classes=10, classifier_activation=None)
    >>> load_bit_npz(model, "BiT-M-R152x2.npz", head="zeros")

    Arguments, result and errors are those of `ResNet`.

    References:
        - [Kolesnikov et al., 2019, Big Transfer](https://arxiv.org/abs/1912.11370)
        - [He et al., 2016, Identity mappings](https://arxiv.org/abs/1603.05027)
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((3, 8, 36, 3), 2, style, ends, name)


@documented_like(ResNet)
def BiT_R152x4(
    include_top: bool = True,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    *,
    norm: Literal["gn", "bn"] | None = "gn",
    weight_standardization: str | None = "bit",
    groups: int | None = None,
    group_size: int | None = None,
    epsilon: float = 1e-5,
    stem: Literal["large", "small"] = "large",
    save_memory: bool = False,
    name: str = "bit_r152x4",
) -> keras.Model:
    """The ResNet (v2) of 152 layers and width 4 of Big Transfer.

    The defaults are those of the published checkpoints: GroupNorm with 32 groups and an epsilon of
    1e-5, kernels standardized with an epsilon of 1e-10. Scale the images to [-1, 1], as
    `keras.applications.resnet_v2.preprocess_input` does.

    >>> model = BiT_R152x4(classes=10, classifier_activation=None)
    >>> load_bit_npz(model, "BiT-M-R152x4.npz", head="zeros")

    Arguments, result and errors are those of `ResNet`.

    References:
        - [Kolesnikov et al., 2019, Big Transfer](https://arxiv.org/abs/1912.11370)
        - [He et al., 2016, Identity mappings](https://arxiv.org/abs/1603.05027)
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((3, 8, 36, 3), 4, style, ends, name)
