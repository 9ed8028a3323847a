"""Finds the kernels in a layer: which variables of which layer, and their output channels."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

_Axes: TypeAlias = tuple[int, ...]

# The output-channel axes of each kernel: the axes that are not reduced.
_OUTPUT_AXES: tuple[tuple[tuple[type, ...], dict[str, _Axes]], ...] = (
    (
        (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
        {"depthwise_kernel": (-2, -1), "pointwise_kernel": (-1,)},
    ),
    ((keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D), {"kernel": (-2, -1)}),
    (
        (
            keras.layers.Conv1DTranspose,
            keras.layers.Conv2DTranspose,
            keras.layers.Conv3DTranspose,
        ),
        {"kernel": (-2,)},
    ),
)


class Kernel(NamedTuple):
    """A kernel to standardize.

    Attributes:
        owner: the layer that has the kernel.
        name: the attribute of the owner, `"kernel"`, `"recurrent_kernel"`, ...
        axes: the output-channel axes.
        gain: the name of the kernel's gain, unique within a wrapped layer.
    """

    owner: keras.layers.Layer
    name: str
    axes: _Axes
    gain: str

    @property
    def adapted(self) -> bool:
        """Whether LoRA adds to the kernel, which is then a sum and not a variable."""
        return self.name == "kernel" and getattr(self.owner, "lora_enabled", False)

    @property
    def variable(self) -> keras.Variable:
        """The `keras.Variable` to replace."""
        return self.owner._kernel if self.adapted else getattr(self.owner, self.name)


def output_axes(
    layer: keras.layers.Layer, axis: int | Sequence[int] | None = None
) -> dict[str, _Axes]:
    """Returns the output-channel axes of each kernel of a layer.

    Args:
        layer: a Keras layer.
        axis: int or list of ints to use for all kernels; None for those of the layer's type.

    Returns:
        A dict from the name of the attribute (`"kernel"`, `"depthwise_kernel"`, ...) to a tuple of
        axes.
    """
    axes: dict[str, _Axes] = {"kernel": (-1,)}
    # The cells of recurrent layers: `[..., inputs, gates * units]`, `[..., units, gates * units]`.
    if hasattr(layer, "recurrent_kernel"):
        axes["recurrent_kernel"] = (-1,)
    for types, known in _OUTPUT_AXES:
        if isinstance(layer, types):
            axes = known
    if isinstance(layer, keras.layers.EinsumDense):
        operands, output = layer.equation.split("->")
        kernel = operands.split(",")[1]
        axes = {"kernel": tuple(i for i, label in enumerate(kernel) if label in output)}
    if axis is not None:
        axes = dict.fromkeys(axes, _as_tuple(axis))
    return axes


def own_kernels(layer: keras.layers.Layer) -> list[Kernel]:
    """Returns the kernels that the layer itself has, according to its type."""
    return [Kernel(layer, name, axes, gain_name(name)) for name, axes in output_axes(layer).items()]


def kernels_within(
    layer: keras.layers.Layer,
    names: Sequence[str] | None = None,
    axis: int | Sequence[int] | None = None,
) -> list[Kernel]:
    """Returns the kernels of a built layer and of the layers within it.

    Args:
        layer: a built layer, as given to `WeightStandardization`.
        names: attributes of the layers that own the kernels, or dotted paths from `layer` made of
            attributes and list indices; None for the kernels of the layers' types.
        axis: int or list of ints, the output-channel axes of all kernels; None finds them by the
            type of the owner.

    Raises:
        ValueError: if there is no kernel, or one is not a `keras.Variable`.
    """
    owned = kernel_owners(layer)
    kernels: list[Kernel] = []
    for prefix, owner in owned:
        plain = [n for n in names if "." not in n] if names else output_axes(owner)
        kernels += [_kernel(owner, name, axis, (prefix, name)) for name in plain]
    for path in [name for name in names or () if "." in name]:
        *parts, name = path.split(".")
        kernels.append(_kernel(_follow(layer, parts, path), name, axis, (*parts, name)))
    seen: set[int | str] = set()
    for kernel in kernels:
        _check_kernel(layer, kernel)
        if not seen.isdisjoint((id(kernel.variable), kernel.gain)):
            raise ValueError(
                f"`kernels` names the variable {kernel.variable.path} twice, or two variables "
                f"whose gains would both be named {kernel.gain}. Received: kernels={names}"
            )
        seen.update((id(kernel.variable), kernel.gain))
    return kernels


def kernel_owners(
    layer: keras.layers.Layer, prefix: str = ""
) -> list[tuple[str, keras.layers.Layer]]:
    """Returns the layers that own the kernels of a layer, as pairs of a prefix and an owner.

    The owner is the layer itself or a layer that it creates and calls: the cell of a recurrent
    layer, both layers of `Bidirectional`, the projections of an attention layer, the layer in a
    wrapper. Prefixes keep the names of the gains apart.
    """
    if isinstance(layer, keras.layers.Bidirectional):
        parts = [("forward", layer.forward_layer), ("backward", layer.backward_layer)]
    elif isinstance(layer, keras.layers.RNN):
        parts = [("", layer.cell)]
    elif isinstance(layer, keras.layers.StackedRNNCells):
        parts = [(f"cell_{i}", cell) for i, cell in enumerate(layer.cells)]
    elif isinstance(layer, (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)):
        projections = layer._flatten_layers(include_self=False, recursive=False)
        return [
            (_join(prefix, part.name), part)
            for part in projections
            if isinstance(part, keras.layers.EinsumDense)
        ]
    elif isinstance(layer, keras.layers.Wrapper) and not hasattr(layer, "kernel"):
        parts = [("", layer.layer)]
    else:
        return [(prefix, layer)]
    return [owner for name, part in parts for owner in kernel_owners(part, _join(prefix, name))]


def gain_name(*path: str) -> str:
    """Returns the name of the gain of the kernel at a path of attributes."""
    *parts, name = (part.strip("_") for part in path)
    parts = [part for part in parts if part not in ("", "cell", "layer")]
    return "_".join(
        [*parts, name.replace("kernel", "gain") if "kernel" in name else name + "_gain"]
    )


def _join(*parts: str) -> str:
    return "_".join(filter(None, parts))


def _as_tuple(axis: int | Iterable[int]) -> _Axes:
    return (axis,) if isinstance(axis, int) else tuple(axis)


def _kernel(
    owner: keras.layers.Layer, name: str, axis: int | Sequence[int] | None, path: Sequence[str]
) -> Kernel:
    known = output_axes(owner).get(name.strip("_"), (-1,))
    return Kernel(owner, name, known if axis is None else _as_tuple(axis), gain_name(*path))


def _follow(layer: keras.layers.Layer, parts: Sequence[str], path: str) -> Any:
    try:
        return functools.reduce(_attribute, parts, layer)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            "`kernels` takes names of attributes, or dotted paths of attributes and list indices. "
            f"Received: {path!r} for {layer!r}, which fails with: {error}"
        ) from error


def _attribute(value: Any, part: str) -> Any:
    return value[int(part)] if part.isdigit() else getattr(value, part)


def _check_kernel(layer: keras.layers.Layer, kernel: Kernel) -> None:
    owner, name = kernel.owner, kernel.name
    received = f"Received: layer={layer!r}, "
    if owner is not layer:
        received += f"in it {owner!r}, "
    if not hasattr(owner, name):
        raise ValueError(
            "WeightStandardization wraps a layer that has a kernel, such as Conv2D or Dense. If "
            "the kernel has another name, pass that name as `kernels`. "
            f"{received}which has no `{name}`"
        )
    value = kernel.variable
    if isinstance(value, keras.Variable):
        return
    if isinstance(value, tf.Variable):
        what = "a tf.Variable: create it with `add_weight`"
    else:
        what = (
            f"a computed {type(value).__name__}: to standardize the variable that it is computed "
            'from, name that variable, as in kernels=("_kernel",)'
        )
    raise ValueError(
        "WeightStandardization standardizes kernels that are a keras.Variable. "
        f"{received}whose `{name}` is {what}"
    )
