"""Standardizes the kernels of a layer: its own, or those of a wrapped layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tfgn_base.variants import check_variant

from .. import _export_mode
from .. import ops as fused
from .._keras import AutocastScope, on_tensorflow
from . import _recomputation
from ._kernel_weights import Kernel
from ._weight_scope import dtype_as_read


def refuse_quantization(layer: keras.layers.Layer, mode: Any) -> None:
    """Raises NotImplementedError unless `mode`, the quantization mode of `layer`, is None."""
    if mode is not None:
        raise NotImplementedError(
            "A layer with a standardized kernel cannot be quantized: quantize the model that "
            "tensorflow_groupnorm.fold(model) returns, in which stock layers have the "
            f"standardized kernels. Received: mode={mode!r} for {layer.name}"
        )


class HasStandardizedWeights(keras.layers.Layer):
    """The part of a layer that standardizes kernels: its own, or those of a wrapped layer.

    Subclasses call `_init_standardization` in their constructor, `_build_gains` once the kernels
    exist, and `_standardized` in each call.
    """

    def _init_standardization(self, variant: str, epsilon: float | None, gain: bool) -> None:
        if not on_tensorflow():
            raise RuntimeError(
                f"{type(self).__name__} needs Keras on TensorFlow (KERAS_BACKEND=tensorflow). "
                f"Received: KERAS_BACKEND={keras.backend.backend()}"
            )
        check_variant(variant, epsilon)
        self.variant = variant
        self.epsilon = epsilon
        self.use_gain = bool(gain)

    def _standardization_config(self) -> dict[str, Any]:
        return {"variant": self.variant, "epsilon": self.epsilon, "gain": self.use_gain}

    def _build_gains(self, kernels: Sequence[Kernel]) -> None:
        for kernel in kernels:
            owner = kernel.owner
            refuse_quantization(owner, owner.quantization_mode)
            shape = kernel.variable.shape
            if not all(-len(shape) <= axis < len(shape) for axis in kernel.axes):
                raise ValueError(
                    f"`axis` must name axes of the {kernel.name} of {owner.name}, which has the "
                    f"shape {tuple(shape)}. Received: axis={list(kernel.axes)}"
                )
            outputs = math.prod(shape[axis] for axis in {axis % len(shape) for axis in kernel.axes})
            if math.prod(shape) == outputs:
                raise ValueError(
                    f"The layer {owner.name} has one weight per output channel in its "
                    f"{kernel.name} of shape {tuple(shape)}, which would be 0 if standardized. "
                    "Leave this layer unstandardized."
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

    def _standardized(self, kernels: Sequence[Kernel]) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Returns the variables to replace in reads, each with its tensor, to use the kernels.

        The kernel to standardize is the one that the owner would use, in its stored precision: with
        LoRA the sum of the kernel and its delta, which Keras saves too.
        """
        replacements: list[tuple[keras.Variable, tf.Tensor]] = []
        for kernel in kernels:
            owner = kernel.owner
            refuse_quantization(owner, owner.quantization_mode)
            if kernel.adapted:
                no_delta = tf.zeros(owner.lora_kernel_b.shape, owner.lora_kernel_b.dtype)
                replacements.append((owner.lora_kernel_b, no_delta))
            # In its own `call`, a layer is autocasting already; a wrapped one is yet to be called.
            autocast = owner is not self and owner.autocast
            dtype = owner.compute_dtype if autocast else dtype_as_read(kernel.variable)
            standardize = functools.partial(self._standardize, kernel, dtype)
            backward = _recomputation.current()
            if backward is None:
                w_hat = _export_mode.folded(standardize)
            else:
                w_hat = backward.once((id(kernel.variable), dtype), standardize)
            replacements.append((kernel.variable, w_hat))
        return replacements

    def _standardize(self, kernel: Kernel, dtype: str) -> tf.Tensor:
        with AutocastScope(None):
            w = tf.convert_to_tensor(getattr(kernel.owner, kernel.name))
        backward = _recomputation.current()
        if backward is not None:
            w = backward.later(w)
        return fused.standardize_weights(
            w,
            getattr(self, kernel.gain),
            variant=self.variant,
            epsilon=self.epsilon,
            axis=kernel.axes,
            dtype=None if w.dtype == tf.float64 else dtype,
        )
