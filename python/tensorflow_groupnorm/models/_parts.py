"""What the networks are made of: convolutions, normalizations, stems and tops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
from tfgn_base.variants import check_variant

from ..layers import GroupNormalization, StandardizedConv2D

NORMS = ("gn", "bn", None)
STEMS = ("large", "small")


@dataclasses.dataclass(frozen=True)
class Style:
    """How a network normalizes.

    Attributes:
        norm: `"gn"`, `"bn"` or None.
        weight_standardization: the variant, or None for plain kernels.
        groups: of GroupNormalization.
        group_size: channels per group, instead of `groups`.
        epsilon: of the normalization.

    Raises:
        ValueError: if `norm` or `weight_standardization` is none of these.
    """

    norm: str | None
    weight_standardization: str | None
    groups: int
    group_size: int | None
    epsilon: float

    def __post_init__(self):
        if self.norm not in NORMS:
            names = ", ".join(map(repr, NORMS))
            raise ValueError(f"`norm` must be one of {names}. Received: norm={self.norm!r}")
        if self.weight_standardization is not None:
            try:
                check_variant(self.weight_standardization)
            except ValueError as error:
                raise ValueError(f"`weight_standardization`: {error}") from None

    def conv(self, x, filters: int, size: int, strides: int = 1, *, name: str):
        """Returns the convolution of x, padded with zeros by `size // 2` on every side."""
        padding = "valid"
        if size > 1 and strides == 1:
            padding = "same"
        elif size > 1:
            # "same" pads a strided convolution by one row more at the bottom than at the top.
            x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        options = {
            "strides": strides,
            "padding": padding,
            "use_bias": self.norm is None,
            "kernel_initializer": "he_normal",
            "name": name,
        }
        if self.weight_standardization is None:
            return keras.layers.Conv2D(filters, size, **options)(x)
        variant = self.weight_standardization
        return StandardizedConv2D(filters, size, variant=variant, **options)(x)

    def normalize(self, x, *, name: str, activation=None, residual=None, gamma="ones"):
        """Returns `activation(norm(x) + residual)`, in one kernel where the norm is a GroupNorm."""
        if self.norm == "gn":
            groups = {"groups": self.groups}
            if self.group_size is not None:
                groups = {"group_size": self.group_size}
            layer = GroupNormalization(
                axis=_channel_axis(),
                epsilon=self.epsilon,
                gamma_initializer=gamma,
                activation=activation,
                name=name,
                **groups,
            )
            return layer(x, residual=residual)
        if self.norm == "bn":
            x = keras.layers.BatchNormalization(
                axis=_channel_axis(), epsilon=self.epsilon, gamma_initializer=gamma, name=name
            )(x)
        if residual is not None:
            x = keras.layers.Add(name=f"{name}_add")([x, residual])
        if activation is not None:
            x = keras.layers.Activation(activation, name=f"{name}_{activation}")(x)
        return x


def _channel_axis() -> int:
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def channels(x) -> int:
    """Returns the number of channels of a batch of images."""
    return x.shape[_channel_axis()]


def pool(x, name: str):
    """Returns x after max pooling over 3x3 pixels with stride 2, padded with zeros."""
    x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(3, strides=2, name=name)(x)


@dataclasses.dataclass(frozen=True)
class Ends:
    """What comes before and after the convolutions, as in `keras.applications`."""

    include_top: bool
    input_tensor: object
    input_shape: tuple | None
    pooling: str | None
    classes: int
    classifier_activation: str | None

    def __post_init__(self):
        if self.pooling not in ("avg", "max", None):
            raise ValueError(
                f"`pooling` must be 'avg', 'max' or None. Received: pooling={self.pooling!r}"
            )

    def begin(self):
        """Returns the tensor of images."""
        if self.input_tensor is None:
            shape = self.input_shape
            if shape is None:
                shape = (3, None, None) if _channel_axis() == 1 else (None, None, 3)
            return keras.Input(shape)
        if keras.utils.is_keras_tensor(self.input_tensor):
            return self.input_tensor
        return keras.Input(tensor=self.input_tensor, shape=self.input_shape)

    def finish(self, images, x, name: str) -> keras.Model:
        """Returns the model from the images to x, pooled, and classified if it has a top."""
        if self.include_top:
            x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
            x = keras.layers.Dense(
                self.classes, activation=self.classifier_activation, name="head"
            )(x)
        elif self.pooling == "avg":
            x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
        elif self.pooling == "max":
            x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
        if self.input_tensor is not None:
            images = keras.utils.get_source_inputs(images)
            images = images[0] if len(images) == 1 else images
        return keras.Model(images, x, name=name)


def network(name: str, documentation: str, body: Callable) -> Callable:
    """Returns a function in the manner of `keras.applications`.

    Args:
        name: of the function; that of its models is the same in lower case.
        documentation: its docstring.
        body: gives the last feature map, from the images, the name of the stem and the `Style`.
    """
    default_name = name.lower()

    def build(
        include_top=True,
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        *,
        norm="gn",
        weight_standardization="bit",
        groups=32,
        group_size=None,
        epsilon=1e-5,
        stem="large",
        name=default_name,
    ) -> keras.Model:
        style = Style(norm, weight_standardization, groups, group_size, epsilon)
        ends = Ends(include_top, input_tensor, input_shape, pooling, classes, classifier_activation)
        if stem not in STEMS:
            raise ValueError(f"`stem` must be one of 'large', 'small'. Received: stem={stem!r}")
        images = ends.begin()
        return ends.finish(images, body(images, stem, style), name)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = documentation
    return build


ARGUMENTS = """
    Args:
        include_top: whether to end in global average pooling and a `Dense` layer, `head`.
        input_tensor: Keras tensor to use as the images, or None.
        input_shape: height, width and channels of the images (channels first where that is
            Keras' image data format). Any size by default.
        pooling: without a top, `"avg"` or `"max"` over all positions; None for the feature map.
        classes: number of classes of the top.
        classifier_activation: of the top; None for logits.
        norm: `"gn"`, `"bn"`, or None: convolutions with biases and no normalization.
        weight_standardization: variant, see `tfgn.standardize_weights`; None for plain kernels.
        groups: groups of GroupNormalization, a divisor of all channel counts; 1 or -1 for
            layer or instance normalization.
        group_size: channels per group, instead of `groups`.
        epsilon: of the normalizations.
        stem: `"large"`: 7x7 with stride 2 and max pooling; `"small"`, for images of about
            32 to 64 pixels: 3x3 with stride 1 and no pooling.
        name: of the model.

    Returns:
        A `keras.Model` with random weights.

    Raises:
        ValueError: if an argument is none of the above.
"""
