"""Finds the kernels in a layer: which variables of which layer, and their output channels."""

import functools
from typing import NamedTuple

import keras
import tensorflow as tf

# The output-channel axes of each kernel: the axes that are not reduced.
_OUTPUT_AXES = (
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
        owner: the layer that has it.
        name: its attribute there, `"kernel"`, `"recurrent_kernel"`, ...
        axes: its output-channel axes, a tuple.
        gain: the name of its gain, unique among those of a wrapped layer.
    """

    owner: keras.layers.Layer
    name: str
    axes: tuple
    gain: str

    @property
    def adapted(self):
        """Whether LoRA adds to the kernel, so that it is a sum and no variable."""
        return self.name == "kernel" and getattr(self.owner, "lora_enabled", False)

    @property
    def variable(self):
        """The `keras.Variable` to replace."""
        return self.owner._kernel if self.adapted else getattr(self.owner, self.name)


def output_axes(layer, axis=None):
    """Returns the output-channel axes of each kernel of a layer.

    Args:
        layer: a Keras layer.
        axis: int or list of ints to use in place of what the type of the layer tells, or None.

    Returns:
        A dict from the attribute's name (`"kernel"`, `"depthwise_kernel"`, ...) to a tuple of
        axes.
    """
    axes = {"kernel": (-1,)}
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


def own_kernels(layer):
    """Returns the list of the kernels that a layer has itself, by its type."""
    return [Kernel(layer, name, axes, gain_name(name)) for name, axes in output_axes(layer).items()]


def kernels_within(layer, names=None, axis=None):
    """Returns the list of the kernels of a built layer, those of the layers within it included.

    Args:
        layer: a built layer, as given to `WeightStandardization`.
        names: attributes of the layers that own the kernels, or paths from `layer` with dots, of
            attributes and of numbers in a list; None for all that the types of the layers tell.
        axis: int or list of ints, the output-channel axes of all; None finds them by type.

    Raises:
        ValueError: if there is none, or one is no `keras.Variable`.
    """
    owned = kernel_owners(layer)
    kernels = []
    for prefix, owner in owned:
        plain = [n for n in names if "." not in n] if names else output_axes(owner)
        kernels += [_kernel(owner, name, axis, (prefix, name)) for name in plain]
    for path in [name for name in names or () if "." in name]:
        *parts, name = path.split(".")
        kernels.append(_kernel(_follow(layer, parts, path), name, axis, (*parts, name)))
    seen = set()
    for kernel in kernels:
        _check_kernel(layer, kernel)
        if not seen.isdisjoint((id(kernel.variable), kernel.gain)):
            raise ValueError(
                f"`kernels` names the variable {kernel.variable.path}, or two whose gain would be "
                f"called {kernel.gain}, twice. Received: kernels={names}"
            )
        seen.update((id(kernel.variable), kernel.gain))
    return kernels


def kernel_owners(layer, prefix=""):
    """Returns the layers within a layer that own its kernels, as a list of (prefix, layer).

    They are the layer itself, or what it makes and calls: the cell of a recurrent layer, both
    layers of `Bidirectional`, the projections of an attention layer, the layer in a wrapper. The
    prefix tells them apart.
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


def gain_name(*path):
    """Returns the name of the gain of the kernel at a path of attributes."""
    *parts, name = (part.strip("_") for part in path)
    parts = [part for part in parts if part not in ("", "cell", "layer")]
    return "_".join(
        [*parts, name.replace("kernel", "gain") if "kernel" in name else name + "_gain"]
    )


def _join(*parts):
    return "_".join(filter(None, parts))


def _as_tuple(axis):
    return (axis,) if isinstance(axis, int) else tuple(axis)


def _kernel(owner, name, axis, path):
    known = output_axes(owner).get(name.strip("_"), (-1,))
    return Kernel(owner, name, known if axis is None else _as_tuple(axis), gain_name(*path))


def _follow(layer, parts, path):
    try:
        return functools.reduce(_attribute, parts, layer)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            "`kernels` names attributes of the layer, or paths of attributes and numbers with "
            "dots. "
            f"Received: {path!r} for {layer!r}, and {error}"
        ) from error


def _attribute(value, part):
    return value[int(part)] if part.isdigit() else getattr(value, part)


def _check_kernel(layer, kernel):
    owner, name = kernel.owner, kernel.name
    received = f"Received: layer={layer!r}, "
    if owner is not layer:
        received += f"in it {owner!r}, "
    if not hasattr(owner, name):
        raise ValueError(
            "WeightStandardization wraps a layer that has a kernel, such as Conv2D or Dense; "
            "`kernels` names it where it has another name. "
            f"{received}which has no `{name}`"
        )
    value = kernel.variable
    if isinstance(value, keras.Variable):
        return
    if isinstance(value, tf.Variable):
        what = "a tf.Variable: make it with `add_weight`"
    else:
        what = (
            f"computed, a {type(value).__name__}: name the variable that it is computed from, as "
            'in kernels=("_kernel",), if that one is to be standardized'
        )
    raise ValueError(
        "WeightStandardization standardizes kernels that are a keras.Variable. "
        f"{received}whose `{name}` is {what}"
    )
