"""The parts of the networks: convolutions, normalizations, stems and tops."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import keras
from tfgn_base.variants import check_variant

from .._conversion import pair_between
from ..layers import GroupNormalization, StandardizedConv2D

NORMS = ("gn", "bn", None)
STEMS = ("large", "small")
PADDINGS = ("symmetric", "same")
POOLINGS = ("avg", "max", None)

_Network = TypeVar("_Network", bound=Callable[..., keras.Model])


class Normalization(Protocol):
    """A normalization that this package does not have, passed as `norm` to a network.

    Attributes:
        use_bias: whether the convolutions before it have biases.
    """

    use_bias: bool

    def __call__(
        self,
        x: keras.KerasTensor,
        *,
        name: str,
        activation: str | None,
        residual: keras.KerasTensor | None,
        **options: Any,
    ) -> keras.KerasTensor:
        """Returns what stands for `activation(norm(x) + residual)`.

        Args:
            x: the output of a convolution.
            name: name of the layer, and the beginning of the names of several.
            activation: activation, or None.
            residual: what is added before the activation, or None.
            **options: `axis`, `epsilon` and `gamma_initializer`, as of `BatchNormalization`.
        """


@dataclasses.dataclass(frozen=True)
class Style:
    """The kind of the convolutions and normalizations of a network.

    Attributes:
        norm: `"gn"`, `"bn"`, None or a `Normalization`.
        weight_standardization: variant, or None for plain kernels.
        groups: groups of each GroupNorm; None for 32, unless `group_size` is given.
        group_size: channels per group, instead of `groups`.
        epsilon: epsilon of the normalizations.
        stem: `"large"` or `"small"`.
        save_memory: whether a GroupNorm and the convolutions that read its output are one layer.
        gain: whether standardized kernels have a learned gain.
        padding: zeros around the input of a strided convolution: `"symmetric"`, as many at the top
            and left as at the bottom and right, or TensorFlow's `"same"`.
        zero_init_residual: whether the last gamma of each residual branch starts at 0.

    Raises:
        ValueError: if `norm`, `weight_standardization`, `stem` or `padding` is none of these, if
            `gain` comes without `weight_standardization`, or `save_memory` without GroupNorm.
    """

    norm: str | Normalization | None
    weight_standardization: str | None
    groups: int | None
    group_size: int | None
    epsilon: float
    stem: str
    save_memory: bool = False
    gain: bool = False
    padding: str = "symmetric"
    zero_init_residual: bool = True

    def __post_init__(self) -> None:
        if not callable(self.norm):
            _check_among("norm", self.norm, NORMS)
        _check_among("stem", self.stem, STEMS)
        _check_among("padding", self.padding, PADDINGS)
        if self.save_memory and self.norm != "gn":
            raise ValueError(
                "`save_memory` computes the output of GroupNorms again: it needs norm='gn'. "
                f"Received: save_memory=True, norm={self.norm!r}"
            )
        if self.weight_standardization is not None:
            try:
                check_variant(self.weight_standardization)
            except ValueError as error:
                raise ValueError(f"`weight_standardization`: {error}") from None
        elif self.gain:
            raise ValueError(
                "`gain` scales standardized kernels: it needs `weight_standardization`. "
                "Received: gain=True, weight_standardization=None"
            )

    def conv(
        self, x: keras.KerasTensor, filters: int, size: int, strides: int = 1, *, name: str
    ) -> keras.KerasTensor:
        """Returns the convolution of x; the output has `1 / strides` of its height and width."""
        padding = "same" if size > 1 else "valid"
        if size > 1 and strides > 1 and self.padding == "symmetric":
            # "same" pads an even number of pixels with one zero more at the bottom and right.
            padding = "valid"
            x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        options: dict[str, Any] = {
            "strides": strides,
            "padding": padding,
            "use_bias": self.norm.use_bias if callable(self.norm) else self.norm is None,
            "kernel_initializer": "he_normal",
            "name": name,
        }
        if self.weight_standardization is None:
            return keras.layers.Conv2D(filters, size, **options)(x)
        return StandardizedConv2D(
            filters, size, variant=self.weight_standardization, gain=self.gain, **options
        )(x)

    def normalize(
        self,
        x: keras.KerasTensor,
        *,
        name: str,
        activation: str | None = None,
        residual: keras.KerasTensor | None = None,
    ) -> keras.KerasTensor:
        """Returns `activation(norm(x) + residual)`, in one kernel if the norm is a GroupNorm."""
        gamma = "zeros" if residual is not None and self.zero_init_residual else "ones"
        options: dict[str, Any] = {
            "axis": _channel_axis(),
            "epsilon": self.epsilon,
            "gamma_initializer": gamma,
            "name": name,
        }
        if callable(self.norm):
            return self.norm(x, activation=activation, residual=residual, **options)
        if self.norm == "gn":
            layer = GroupNormalization(
                self.groups, group_size=self.group_size, activation=activation, **options
            )
            return layer(x, residual=residual)
        if self.norm == "bn":
            x = keras.layers.BatchNormalization(**options)(x)
        if residual is not None:
            x = keras.layers.Add(name=f"{name}_add")([x, residual])
        if activation is not None:
            x = keras.layers.Activation(activation, name=f"{name}_{activation}")(x)
        return x

    def finish(self, images: keras.KerasTensor, model: keras.Model) -> keras.Model:
        """Returns the model; with `save_memory`, after pairing what was made from the images."""
        if not self.save_memory:
            return model
        return pair_between([images], model)


def _channel_axis() -> int:
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def channels(x: keras.KerasTensor) -> int:
    """Returns the number of channels of a batch of images."""
    return x.shape[_channel_axis()]


def max_pool(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Returns x after max pooling over 3x3 pixels with stride 2, padded with zeros."""
    x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(3, strides=2, name=name)(x)


@dataclasses.dataclass(frozen=True)
class Ends:
    """The input and the output of a network, as in `keras.applications`.

    Attributes:
        include_top: whether the network ends in a classifier.
        input_tensor: Keras tensor of the images, or None for a new input.
        input_shape: shape of one image, or None for any size.
        pooling: `"avg"`, `"max"` or None; only without a classifier.
        classes: number of classes.
        classifier_activation: activation of the classifier, None for logits.

    Raises:
        ValueError: if `pooling` is none of these.
    """

    include_top: bool
    input_tensor: keras.KerasTensor | None
    input_shape: tuple[int | None, ...] | None
    pooling: str | None
    classes: int
    classifier_activation: str | None

    def __post_init__(self) -> None:
        _check_among("pooling", self.pooling, POOLINGS)

    def begin(self) -> keras.KerasTensor:
        """Returns the tensor of images."""
        if self.input_tensor is None:
            shape = self.input_shape
            if shape is None:
                shape = (3, None, None) if _channel_axis() == 1 else (None, None, 3)
            return keras.Input(shape)
        if keras.utils.is_keras_tensor(self.input_tensor):
            return self.input_tensor
        return keras.Input(tensor=self.input_tensor, shape=self.input_shape)

    def finish(self, images: keras.KerasTensor, x: keras.KerasTensor, name: str) -> keras.Model:
        """Returns the model from the images to x, which it pools or classifies."""
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


def _check_among(name: str, value: object, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        names = ", ".join(map(repr, allowed))
        raise ValueError(f"`{name}` must be one of {names}. Received: {name}={value!r}")


_ARGUMENT = re.compile(r" {4}(\w+): .*\n(?: {8}.*\n)*")
_LIKE = "Arguments, result and errors are those of `ResNet`.\n"


def documented_like(general: Callable[..., keras.Model]) -> Callable[[_Network], _Network]:
    """Completes the docstring of a network with what stands in another one.

    Args:
        general: a function with the sections "Args", "Returns" and "Raises" in its docstring.

    Returns:
        A decorator. In the docstring of its function it replaces the sentence that refers to
        `general` by these sections, without the arguments that the function does not have.
    """

    def complete(network: _Network) -> _Network:
        if network.__doc__ and general.__doc__:  # python -OO drops docstrings.
            # Since Python 3.13, the compiler removes the indentation.
            docs = network.__doc__, general.__doc__
            own_doc, general_doc = (f"{inspect.cleandoc(doc)}\n" for doc in docs)
            before, sentence, after = own_doc.partition(_LIKE)
            if not sentence:
                raise ValueError(f"the docstring of {network} must have the line {_LIKE!r}")
            _, title, sections = general_doc.partition("Args:\n")
            arguments, *others = sections.partition("Returns:\n")
            own = inspect.signature(network).parameters
            kept = [found[0] for found in _ARGUMENT.finditer(arguments) if found[1] in own]
            rest = "".join(others).partition("\nReferences:\n")[0]
            network.__doc__ = f"{before}{title}{''.join(kept)}\n{rest}{after}"
        return network

    return complete
