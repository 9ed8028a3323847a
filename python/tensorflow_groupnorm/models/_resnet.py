"""The ResNets of He et al. (v1)."""

from collections.abc import Sequence
from typing import Literal

import keras

from ._parts import Ends, Style, channels, documented_like, max_pool

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4


def _build(
    blocks: Sequence[int],
    widths: Sequence[int],
    style: Style,
    ends: Ends,
    name: str,
    *,
    bottleneck: bool,
) -> keras.Model:
    block = _bottleneck_block if bottleneck else _basic_block
    images = ends.begin()
    x = _stem(images, widths[0], style)
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for i in range(count):
            strides = 2 if stage > 0 and i == 0 else 1
            x = block(x, width, strides, style, f"stage{stage + 1}_block{i + 1}")
    return style.finish(images, ends.finish(images, x, name))


def _stem(images: keras.KerasTensor, width: int, style: Style) -> keras.KerasTensor:
    size, strides = (7, 2) if style.stem == "large" else (3, 1)
    x = style.conv(images, width, size, strides, name="stem_conv")
    x = style.normalize(x, activation="relu", name="stem_norm")
    return max_pool(x, "stem_pool") if style.stem == "large" else x


def _shortcut(
    x: keras.KerasTensor, filters: int, strides: int, style: Style, prefix: str
) -> keras.KerasTensor:
    if strides == 1 and channels(x) == filters:
        return x
    x = style.conv(x, filters, 1, strides, name=f"{prefix}_shortcut_conv")
    return style.normalize(x, name=f"{prefix}_shortcut_norm")


def _basic_block(
    x: keras.KerasTensor, width: int, strides: int, style: Style, prefix: str
) -> keras.KerasTensor:
    shortcut = _shortcut(x, width, strides, style, prefix)
    x = style.conv(x, width, 3, strides, name=f"{prefix}_conv1")
    x = style.normalize(x, activation="relu", name=f"{prefix}_norm1")
    x = style.conv(x, width, 3, name=f"{prefix}_conv2")
    return style.normalize(x, activation="relu", residual=shortcut, name=f"{prefix}_norm2")


def _bottleneck_block(
    x: keras.KerasTensor, width: int, strides: int, style: Style, prefix: str
) -> keras.KerasTensor:
    filters = _EXPANSION * width
    shortcut = _shortcut(x, filters, strides, style, prefix)
    x = style.conv(x, width, 1, name=f"{prefix}_conv1")
    x = style.normalize(x, activation="relu", name=f"{prefix}_norm1")
    x = style.conv(x, width, 3, strides, name=f"{prefix}_conv2")
    x = style.normalize(x, activation="relu", name=f"{prefix}_norm2")
    x = style.conv(x, filters, 1, name=f"{prefix}_conv3")
    return style.normalize(x, activation="relu", residual=shortcut, name=f"{prefix}_norm3")


def ResNet(
    blocks: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512),
    include_top: bool = True,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    *,
    bottleneck: bool = False,
    norm: Literal["gn", "bn"] | None = "gn",
    weight_standardization: str | None = "bit",
    groups: int | None = None,
    group_size: int | None = None,
    epsilon: float = 1e-5,
    gain: bool = False,
    zero_init_residual: bool = True,
    padding: Literal["symmetric", "same"] = "symmetric",
    stem: Literal["large", "small"] = "large",
    save_memory: bool = False,
    name: str = "resnet",
) -> keras.Model:
    """A ResNet with any number of stages, blocks and channels.

    Each stage after the first halves the height and the width: the 3x3 convolution of its first
    block has stride 2. The other functions `ResNet...` are this one with the blocks and widths of
    He et al. The ResNet-20 for CIFAR-10 of the same paper, with GroupNorm:

    >>> model = ResNet((3, 3, 3), (16, 32, 64), stem="small", groups=8, classes=10)

    Args:
        blocks: number of residual blocks in each stage.
        widths: channels of the 3x3 convolutions in each stage; the stem has as many as the first.
        include_top: whether to end in global average pooling and a `Dense` layer, `head`.
        input_tensor: Keras tensor to use as the images, or None.
        input_shape: height, width and channels of the images (channels first if that is Keras'
            image data format). Any size by default.
        pooling: pooling of the output without a top: `"avg"` or `"max"` over all positions, None
            for the feature map.
        classes: number of classes of the top.
        classifier_activation: activation of the top; None for logits.
        bottleneck: whether a block is a 1x1, a 3x3 and a 1x1 convolution, the last with 4 times
            the width, instead of two 3x3 convolutions.
        norm: `"gn"`, `"bn"`, or None: convolutions with biases and no normalization.
        weight_standardization: variant, see `tfgn.standardize_weights`; None for plain kernels.
        groups: groups of GroupNormalization, a divisor of all channel counts; 1 is layer
            normalization, -1 instance normalization. None is 32, unless `group_size` is given.
        group_size: channels per group, instead of `groups`.
        epsilon: epsilon of the normalizations.
        gain: whether standardized kernels have a learned gain, as those of NFNets.
        zero_init_residual: whether the last normalization of each block starts with gamma = 0, so
            that the block is the identity at first.
        padding: padding of convolutions with stride 2: `"symmetric"`, by the same number of zeros
            on all sides, as in the published networks, or `"same"` as in TensorFlow.
        stem: `"large"`: 7x7 with stride 2 and max pooling; `"small"`, for images of about 32 to 64
            pixels: 3x3 with stride 1 and no pooling.
        save_memory: whether to train in less memory: each GroupNormalization and the convolutions
            that keep its output are one `tfgn.layers.RecomputedNormalization`, which does not keep
            it. Results are the same; see `tfgn.convert`.
        name: name of the model.

    Returns:
        A `keras.Model` with random weights.

    Raises:
        ValueError: if an argument is none of the above.

    References:
        - [He et al., 2015, Deep residual learning](https://arxiv.org/abs/1512.03385)
        - [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494), section 4.1
    """
    if not blocks or len(blocks) != len(widths) or min(*blocks, *widths) < 1:
        raise ValueError(
            "`blocks` and `widths` must have one positive int for each stage. "
            f"Received: blocks={blocks!r}, widths={widths!r}"
        )
    style = Style(
        *(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory),
        gain=gain,
        padding=padding,
        zero_init_residual=zero_init_residual,
    )
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build(blocks, widths, style, ends, name, bottleneck=bottleneck)


@documented_like(ResNet)
def ResNet18(
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
    name: str = "resnet18",
) -> keras.Model:
    """The ResNet of 18 layers, with GroupNorm and weight standardization.

    Where the resolution halves, the 3x3 convolution has the stride. The last normalization of
    each block starts with gamma = 0, so that the block is the identity at first. Scale the images
    to a mean of about 0 and a standard deviation of about 1.

    Arguments, result and errors are those of `ResNet`.

    References:
        - [He et al., 2015, Deep residual learning](https://arxiv.org/abs/1512.03385)
        - [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494), section 4.1
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((2, 2, 2, 2), _WIDTHS, style, ends, name, bottleneck=False)


@documented_like(ResNet)
def ResNet34(
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
    name: str = "resnet34",
) -> keras.Model:
    """The ResNet of 34 layers, with GroupNorm and weight standardization.

    Where the resolution halves, the 3x3 convolution has the stride. The last normalization of
    each block starts with gamma = 0, so that the block is the identity at first. Scale the images
    to a mean of about 0 and a standard deviation of about 1.

    Arguments, result and errors are those of `ResNet`.

    References:
        - [He et al., 2015, Deep residual learning](https://arxiv.org/abs/1512.03385)
        - [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494), section 4.1
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((3, 4, 6, 3), _WIDTHS, style, ends, name, bottleneck=False)


@documented_like(ResNet)
def ResNet50(
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
    name: str = "resnet50",
) -> keras.Model:
    """The ResNet of 50 layers, with GroupNorm and weight standardization.

    Where the resolution halves, the 3x3 convolution has the stride. The last normalization of
    each block starts with gamma = 0, so that the block is the identity at first. Scale the images
    to a mean of about 0 and a standard deviation of about 1.

    Arguments, result and errors are those of `ResNet`.

    References:
        - [He et al., 2015, Deep residual learning](https://arxiv.org/abs/1512.03385)
        - [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494), section 4.1
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((3, 4, 6, 3), _WIDTHS, style, ends, name, bottleneck=True)


@documented_like(ResNet)
def ResNet101(
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
    name: str = "resnet101",
) -> keras.Model:
    """The ResNet of 101 layers, with GroupNorm and weight standardization.

    Where the resolution halves, the 3x3 convolution has the stride. The last normalization of
    each block starts with gamma = 0, so that the block is the identity at first. Scale the images
    to a mean of about 0 and a standard deviation of about 1.

    Arguments, result and errors are those of `ResNet`.

    References:
        - [He et al., 2015, Deep residual learning](https://arxiv.org/abs/1512.03385)
        - [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494), section 4.1
    """
    style = Style(norm, weight_standardization, groups, group_size, epsilon, stem, save_memory)
    ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
    return _build((3, 4, 23, 3), _WIDTHS, style, ends, name, bottleneck=True)
