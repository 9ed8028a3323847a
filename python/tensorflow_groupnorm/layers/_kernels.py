"""Finds the kernels of a layer and standardizes them."""

import functools
import math

import keras
import tensorflow as tf
from keras.src.backend import AutocastScope

from .. import _tracing
from .. import ops as fused
from ..variants import check_variant
from ._common import on_tensorflow

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
    for types, known in _OUTPUT_AXES:
        if isinstance(layer, types):
            axes = known
    if isinstance(layer, keras.layers.EinsumDense):
        operands, output = layer.equation.split("->")
        kernel = operands.split(",")[1]
        axes = {"kernel": tuple(i for i, label in enumerate(kernel) if label in output)}
    if axis is not None:
        axis = (axis,) if isinstance(axis, int) else tuple(axis)
        axes = dict.fromkeys(axes, axis)
    return axes


def refuse_quantization(layer, mode):
    """Raises NotImplementedError if `mode`, a quantization mode of `layer`, is not None."""
    if mode is not None:
        raise NotImplementedError(
            "A layer with a standardized kernel cannot be quantized: put the standardized kernel "
            f"into a stock layer and quantize that. Received: mode={mode!r} for {layer.name}"
        )


def _gain_name(kernel_name):
    return kernel_name.replace("kernel", "gain")


class KernelStandardization:
    """The part of a layer that standardizes kernels: its own, or those of a wrapped layer.

    To be set up with `_init_standardization` and, once the kernels exist, `_build_gains`.
    """

    def _init_standardization(self, variant, epsilon, gain):
        if not on_tensorflow():
            raise RuntimeError(
                f"{type(self).__name__} needs Keras on TensorFlow (KERAS_BACKEND=tensorflow). "
                f"Received: KERAS_BACKEND={keras.backend.backend()}"
            )
        check_variant(variant, epsilon)
        self.variant = variant
        self.epsilon = epsilon
        self.use_gain = bool(gain)

    def _standardization_config(self):
        return {"variant": self.variant, "epsilon": self.epsilon, "gain": self.use_gain}

    def _build_gains(self, layer, axes):
        refuse_quantization(layer, layer.quantization_mode)
        for name, kept in axes.items():
            shape = getattr(layer, name).shape
            kept = {axis % len(shape) for axis in kept}
            outputs = math.prod(shape[axis] for axis in kept)
            if math.prod(shape) == outputs:
                raise ValueError(
                    f"The layer {layer.name} has one weight per output channel in its {name} of "
                    f"shape {tuple(shape)}; standardized, it would be 0. Leave this layer as it is."
                )
            gain = None
            if self.use_gain:
                gain = self.add_weight(
                    shape=(outputs,),
                    name=_gain_name(name),
                    initializer="ones",
                    dtype="float64" if layer.variable_dtype == "float64" else "float32",
                    autocast=False,
                )
            setattr(self, _gain_name(name), gain)

    def _standardized(self, layer, axes):
        """Returns `(variable, tensor)` of all that `layer` must read to use standardized kernels.

        The kernel that counts is the one the layer would use, in the precision in which it is
        stored: with LoRA the sum of the kernel and its delta, which is what Keras saves too.
        """
        refuse_quantization(layer, layer.quantization_mode)
        replacements = []
        for name, kept in axes.items():
            lora = getattr(layer, "lora_enabled", False)
            variable = layer._kernel if lora else getattr(layer, name)
            if lora:
                no_delta = tf.zeros(layer.lora_kernel_b.shape, layer.lora_kernel_b.dtype)
                replacements.append((layer.lora_kernel_b, no_delta))
            # A layer in `call` has its autocasting on, a wrapped one is yet to be called.
            dtype = variable.dtype if layer is self else layer.compute_dtype
            standardize = functools.partial(self._standardize, layer, name, kept, dtype)
            replacements.append((variable, _tracing.folded(standardize)))
        return replacements

    def _standardize(self, layer, name, kept, dtype):
        with AutocastScope(None):
            kernel = tf.convert_to_tensor(getattr(layer, name))
        return fused.standardize_weights(
            kernel,
            getattr(self, _gain_name(name)),
            variant=self.variant,
            epsilon=self.epsilon,
            axis=kept,
            dtype=None if kernel.dtype == tf.float64 else dtype,
        )
