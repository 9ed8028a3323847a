"""Standardizes the kernels of a layer: its own, or those of a wrapped one."""

import functools
import math

import keras
import tensorflow as tf
from tfgn_base.variants import check_variant

from .. import _export_mode
from .. import ops as fused
from .._keras import AutocastScope
from ._common import on_tensorflow
from ._weight_scope import dtype_as_read


def refuse_quantization(layer, mode):
    """Raises NotImplementedError if `mode`, a quantization mode of `layer`, is not None."""
    if mode is not None:
        raise NotImplementedError(
            "A layer with a standardized kernel cannot be quantized: put the standardized kernel "
            f"into a stock layer and quantize that. Received: mode={mode!r} for {layer.name}"
        )


class HasStandardizedWeights:
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

    def _build_gains(self, kernels):
        for kernel in kernels:
            owner = kernel.owner
            refuse_quantization(owner, owner.quantization_mode)
            shape = kernel.variable.shape
            if not all(-len(shape) <= axis < len(shape) for axis in kernel.axes):
                raise ValueError(
                    f"`axis` counts the axes of the {kernel.name} of {owner.name}, which has the "
                    f"shape {tuple(shape)}. Received: axis={list(kernel.axes)}"
                )
            outputs = math.prod(shape[axis] for axis in {axis % len(shape) for axis in kernel.axes})
            if math.prod(shape) == outputs:
                raise ValueError(
                    f"The layer {owner.name} has one weight per output channel in its "
                    f"{kernel.name} of shape {tuple(shape)}; standardized, it would be 0. Leave "
                    "this layer as it is."
                )
            gain = None
            if self.use_gain:
                gain = self.add_weight(
                    shape=(outputs,),
                    name=kernel.gain,
                    initializer="ones",
                    dtype="float64" if owner.variable_dtype == "float64" else "float32",
                    autocast=False,
                )
            setattr(self, kernel.gain, gain)

    def _standardized(self, kernels):
        """Returns `(variable, tensor)` of all that must be read to use standardized kernels.

        The kernel that counts is the one the owner would use, in the precision in which it is
        stored: with LoRA the sum of the kernel and its delta, which is what Keras saves too.
        """
        replacements = []
        for kernel in kernels:
            owner = kernel.owner
            refuse_quantization(owner, owner.quantization_mode)
            if kernel.adapted:
                no_delta = tf.zeros(owner.lora_kernel_b.shape, owner.lora_kernel_b.dtype)
                replacements.append((owner.lora_kernel_b, no_delta))
            # A layer in `call` has its autocasting on, a wrapped one is yet to be called.
            autocast = owner is not self and owner.autocast
            dtype = owner.compute_dtype if autocast else dtype_as_read(kernel.variable)
            standardize = functools.partial(self._standardize, kernel, dtype)
            replacements.append((kernel.variable, _export_mode.folded(standardize)))
        return replacements

    def _standardize(self, kernel, dtype):
        with AutocastScope(None):
            w = tf.convert_to_tensor(getattr(kernel.owner, kernel.name))
        return fused.standardize_weights(
            w,
            getattr(self, kernel.gain),
            variant=self.variant,
            epsilon=self.epsilon,
            axis=kernel.axes,
            dtype=None if w.dtype == tf.float64 else dtype,
        )
