"""The stock layers that have a kernel, with that kernel standardized.

A `.weights.h5` file addresses a layer by the `__name__` of its class. The classes made here have
that of the stock ones, so that weights move both ways between a stock and a standardized model.
They are registered and exported, and their layers named, as `StandardizedConv2D` and so on.
"""

import contextlib
import re

import keras

from .._keras import auto_name, inject_argument_info_in_traceback, to_snake_case
from ._common import refuse_tf_keras, register, supports_jit
from ._kernel_weights import own_kernels
from ._rematerialization import rematerialized
from ._standardized_weights import HasStandardizedWeights, refuse_quantization
from ._weight_scope import WeightScope


class _Standardized(HasStandardizedWeights):
    """Put before a stock layer's class: standardizes its kernels at each call."""

    def __init__(self, *args, variant="bit", epsilon=None, gain=False, name=None, **kwargs):
        name = auto_name(self._class_name()) if name is None else name
        with self._under_its_name():
            super().__init__(*args, name=name, **kwargs)
        self._init_standardization(variant, epsilon, gain)
        self.supports_jit = supports_jit()

    @classmethod
    def _class_name(cls):
        return keras.saving.get_registered_name(cls).split(">")[-1]

    def __repr__(self):
        return f"<{self._class_name()} name={self.name}, built={self.built}>"

    @classmethod
    @contextlib.contextmanager
    def _under_its_name(cls):
        """Puts the name of this class into errors that Keras words with its `__name__`."""
        try:
            yield
        except (TypeError, ValueError) as error:
            if error.args and isinstance(error.args[0], str):
                words = re.sub(rf"\b{cls.__name__}\b", cls._class_name(), error.args[0])
                error.args = (words, *error.args[1:])
            raise

    @classmethod
    def from_config(cls, config):
        with cls._under_its_name():
            return super().from_config(config)

    def build(self, input_shape):
        super().build(input_shape)
        self._build_gains(own_kernels(self))

    def call(self, inputs):
        return self._with_its_name(self._call)(inputs)

    def _call(self, inputs):
        refuse_tf_keras(self, inputs)
        with WeightScope(self, lambda: self._standardized(own_kernels(self))):
            return super().call(inputs)

    def symbolic_call(self, *args, **kwargs):
        return self._with_its_name(super().symbolic_call)(*args, **kwargs)

    def _with_its_name(self, function):
        """Has Keras report errors of a function as of this class; the innermost report counts."""
        return inject_argument_info_in_traceback(function, f"{self._class_name()}.call()")

    def stateless_call(self, *args, **kwargs):
        with self._under_its_name():
            return super().stateless_call(*args, **kwargs)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        return rematerialized(self, super().rematerialized_call, layer_call, *args, **kwargs)

    def quantize(self, mode=None, **kwargs):
        refuse_quantization(self, mode)

    def save_own_variables(self, store):
        # The stock layers' own methods know nothing of a gain.
        if self.use_gain:
            keras.layers.Layer.save_own_variables(self, store)
        else:
            super().save_own_variables(store)

    def load_own_variables(self, store):
        if self.use_gain:
            keras.layers.Layer.load_own_variables(self, store)
        else:
            super().load_own_variables(store)

    def get_config(self):
        return {**super().get_config(), **self._standardization_config()}


def _standardized(stock):
    name = f"Standardized{stock.__name__}"
    doc = f"""`keras.layers.{stock.__name__}` with its kernel standardized at each call.

    The variables are those of the stock layer, under the same names; the kernel that the layer
    computes with is `gain * scale * (kernel - mean) * rstd`, the statistics being those of each
    output channel. The kernel is read in the precision in which it is stored and standardized in
    float32 (float64 for a float64 kernel), also under mixed precision.

    The class has the `__name__` of the stock one, by which `.weights.h5` files address a layer;
    `model.summary()` too shows `{stock.__name__}` as the type, behind the name of the layer,
    `{to_snake_case(name)}` by default. Under `keras.RematScope` the standardization is computed
    again with the rest of the layer; `quantize` is refused, and `model.quantize` leaves the layer
    as it is.

    Args:
        *args: positional arguments of `keras.layers.{stock.__name__}`.
        variant: which published definition, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the variant's own.
        gain: whether to learn a factor per output channel (weight `gain`, ones at first).
        **kwargs: all other arguments of `keras.layers.{stock.__name__}`.

    Raises:
        ValueError: if `variant` or `epsilon` is not valid, or at `build` if a kernel has one weight
            per output channel.
        RuntimeError: in a call, if a subclass does not read the kernel in `call`, assigns to it, or
            reads it in a `tf.function` or a function with a gradient of its own.
        NotImplementedError: if the layer is to be quantized.

    Reference:
        [Qiao et al., 2019, Weight Standardization](https://arxiv.org/abs/1903.10520).
    """
    body = {"__doc__": doc, "__module__": __name__, "__qualname__": name}
    return register(name=name)(type(stock.__name__, (_Standardized, stock), body))


StandardizedConv1D = _standardized(keras.layers.Conv1D)
StandardizedConv2D = _standardized(keras.layers.Conv2D)
StandardizedConv3D = _standardized(keras.layers.Conv3D)
StandardizedConv1DTranspose = _standardized(keras.layers.Conv1DTranspose)
StandardizedConv2DTranspose = _standardized(keras.layers.Conv2DTranspose)
StandardizedConv3DTranspose = _standardized(keras.layers.Conv3DTranspose)
StandardizedDepthwiseConv2D = _standardized(keras.layers.DepthwiseConv2D)
StandardizedSeparableConv2D = _standardized(keras.layers.SeparableConv2D)
StandardizedDense = _standardized(keras.layers.Dense)
