"""The ResNets (v2) of Big Transfer."""

from __future__ import annotations

import keras

from ._parts import ARGUMENTS, Style, channels, network, pool

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4


def _bit(name: str, units: tuple[int, ...], factor: int):
    def body(images, stem: str, style: Style):
        x = _root(images, factor * _WIDTHS[0], stem, style)
        for block, count in enumerate(units):
            for unit in range(count):
                strides = 2 if block > 0 and unit == 0 else 1
                prefix = f"block{block + 1}_unit{unit + 1:02}"
                x = _unit(x, factor * _WIDTHS[block], strides, style, prefix)
        return style.normalize(x, activation="relu", name="norm")

    layers = 2 + 3 * sum(units)
    documentation = f"""The ResNet (v2) of {layers} layers and width {factor} of Big Transfer.

    By default the network of the published checkpoints: GroupNorm with 32 groups and an epsilon
    of 1e-5, kernels standardized with an epsilon of 1e-10. Images are to be scaled to [-1, 1], as
    `keras.applications.resnet_v2.preprocess_input` does.

    >>> model = {name}(classes=10, classifier_activation=None)
    >>> load_bit_npz(model, "BiT-M-{name.removeprefix("BiT_")}.npz", head="zeros")
{ARGUMENTS}
    References:
        - [Kolesnikov et al., 2019, Big Transfer](https://arxiv.org/abs/1912.11370)
        - [He et al., 2016, Identity mappings](https://arxiv.org/abs/1603.05027)
    """
    return network(name, documentation, body)


def _root(images, filters: int, stem: str, style: Style):
    if stem == "small":
        return style.conv(images, filters, 3, name="root_conv")
    # Neither normalized nor rectified: the zeros of the padding take part in the maximum.
    return pool(style.conv(images, filters, 7, 2, name="root_conv"), "root_pool")


def _unit(x, width: int, strides: int, style: Style, prefix: str):
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


BiT_R50x1 = _bit("BiT_R50x1", (3, 4, 6, 3), 1)
BiT_R50x3 = _bit("BiT_R50x3", (3, 4, 6, 3), 3)
BiT_R101x1 = _bit("BiT_R101x1", (3, 4, 23, 3), 1)
BiT_R101x3 = _bit("BiT_R101x3", (3, 4, 23, 3), 3)
BiT_R152x2 = _bit("BiT_R152x2", (3, 8, 36, 3), 2)
BiT_R152x4 = _bit("BiT_R152x4", (3, 8, 36, 3), 4)
