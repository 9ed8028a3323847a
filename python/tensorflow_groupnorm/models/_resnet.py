"""The ResNets of He et al. (v1)."""

from __future__ import annotations

from ._parts import ARGUMENTS, Style, channels, network, pool

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4


def _resnet(name: str, blocks: tuple[int, ...], bottleneck: bool):
    block = _bottleneck_block if bottleneck else _basic_block

    def body(images, stem: str, style: Style):
        x = _stem(images, stem, style)
        for stage, count in enumerate(blocks):
            for i in range(count):
                strides = 2 if stage > 0 and i == 0 else 1
                prefix = f"stage{stage + 1}_block{i + 1}"
                x = block(x, _WIDTHS[stage], strides, style, prefix)
        return x

    layers = 2 + (3 if bottleneck else 2) * sum(blocks)
    documentation = f"""A ResNet of {layers} layers, with GroupNorm and weight standardization.

    Where the resolution halves, the 3x3 convolution has the stride. The last normalization of
    each block starts with gamma = 0: a block is the identity at first. Images are to be scaled to
    a mean of about 0 and a deviation of about 1.
{ARGUMENTS}
    References:
        - [He et al., 2015, Deep residual learning](https://arxiv.org/abs/1512.03385)
        - [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494), section 4.1
    """
    return network(name, documentation, body)


def _stem(images, stem: str, style: Style):
    size, strides = (7, 2) if stem == "large" else (3, 1)
    x = style.conv(images, _WIDTHS[0], size, strides, name="stem_conv")
    x = style.normalize(x, activation="relu", name="stem_norm")
    return pool(x, "stem_pool") if stem == "large" else x


def _shortcut(x, filters: int, strides: int, style: Style, prefix: str):
    if strides == 1 and channels(x) == filters:
        return x
    x = style.conv(x, filters, 1, strides, name=f"{prefix}_shortcut_conv")
    return style.normalize(x, name=f"{prefix}_shortcut_norm")


def _basic_block(x, width: int, strides: int, style: Style, prefix: str):
    shortcut = _shortcut(x, width, strides, style, prefix)
    x = style.conv(x, width, 3, strides, name=f"{prefix}_conv1")
    x = style.normalize(x, activation="relu", name=f"{prefix}_norm1")
    x = style.conv(x, width, 3, name=f"{prefix}_conv2")
    return style.normalize(
        x, activation="relu", residual=shortcut, gamma="zeros", name=f"{prefix}_norm2"
    )


def _bottleneck_block(x, width: int, strides: int, style: Style, prefix: str):
    filters = _EXPANSION * width
    shortcut = _shortcut(x, filters, strides, style, prefix)
    x = style.conv(x, width, 1, name=f"{prefix}_conv1")
    x = style.normalize(x, activation="relu", name=f"{prefix}_norm1")
    x = style.conv(x, width, 3, strides, name=f"{prefix}_conv2")
    x = style.normalize(x, activation="relu", name=f"{prefix}_norm2")
    x = style.conv(x, filters, 1, name=f"{prefix}_conv3")
    return style.normalize(
        x, activation="relu", residual=shortcut, gamma="zeros", name=f"{prefix}_norm3"
    )


ResNet18 = _resnet("ResNet18", (2, 2, 2, 2), bottleneck=False)
ResNet34 = _resnet("ResNet34", (3, 4, 6, 3), bottleneck=False)
ResNet50 = _resnet("ResNet50", (3, 4, 6, 3), bottleneck=True)
ResNet101 = _resnet("ResNet101", (3, 4, 23, 3), bottleneck=True)
