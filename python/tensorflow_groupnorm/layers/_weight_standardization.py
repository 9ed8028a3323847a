"""Weight standardization around any Keras layer that has a kernel."""

import keras

from ._common import register, supports_jit
from ._kernel_scope import KernelScope
from ._kernels import KernelStandardization, output_axes


@register()
class WeightStandardization(KernelStandardization, keras.layers.Wrapper):
    """Standardizes the kernel of the layer it wraps, at each call.

    The wrapped layer computes with `gain * scale * (kernel - mean) * rstd`, the statistics being
    those of each output channel; its variable stays as it is, and gradients go through the
    standardization. Kernels are read in the precision in which they are stored and standardized
    in float32 (float64 for float64 kernels), also under mixed precision.

    >>> layer = WeightStandardization(keras.layers.Conv2D(64, 3, use_bias=False))

    Where a stock layer has a `Standardized...` counterpart (`StandardizedConv2D`, ...), that one
    also keeps the stock layer's place in `.weights.h5` files.

    Args:
        layer: the layer to wrap: convolution, transposed, depthwise or separable convolution,
            `Dense`, `EinsumDense`, `TimeDistributed` around one of these, or any other layer with
            a `kernel`. A separable convolution has both its kernels standardized.
        variant: which published definition, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the variant's own.
        gain: whether to learn a factor per output channel (weight `gain`, ones at first).
        axis: int or list of ints, the kernel's output-channel axes. None finds them by the type
            of the layer, the last axis for one that is not Keras' own.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. The dtype policy is
            that of `layer` unless given.

    Raises:
        ValueError: if `layer` is no layer, has no kernel or standardizes its kernel already.

    Reference:
        [Qiao et al., 2019, Weight Standardization](https://arxiv.org/abs/1903.10520).
    """

    def __init__(self, layer=None, variant="bit", epsilon=None, gain=False, axis=None, **kwargs):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                "WeightStandardization standardizes the kernel of the layer that it wraps, not of "
                "the next one: write WeightStandardization(keras.layers.Conv2D(8, 3)), or "
                f"StandardizedConv2D(8, 3). Received: layer={layer!r}"
            )
        if isinstance(layer, KernelStandardization):
            raise ValueError(
                "WeightStandardization wraps a layer whose kernel is not standardized yet. "
                f"Received: layer={layer!r}"
            )
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self._init_standardization(variant, epsilon, gain)
        self.axis = axis
        self.supports_masking = layer.supports_masking
        self.supports_jit = layer.supports_jit and supports_jit()

    @property
    def _target(self):
        """The layer that has the kernel."""
        layer = self.layer
        while isinstance(layer, keras.layers.TimeDistributed):
            layer = layer.layer
        return layer

    @property
    def _axes(self):
        return output_axes(self._target, self.axis)

    def build(self, input_shape):
        super().build(input_shape)
        for name in self._axes:
            if not hasattr(self._target, name):
                raise ValueError(
                    "WeightStandardization wraps a layer that has a kernel, such as Conv2D or "
                    f"Dense. Received: layer={self.layer!r}, which has no `{name}`"
                )
        self._build_gains(self._target, self._axes)

    def call(self, inputs, **kwargs):
        with KernelScope(self, self._standardized(self._target, self._axes)):
            return self.layer(inputs, **kwargs)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs, **kwargs):
        return self.layer.compute_output_spec(inputs, **kwargs)

    def compute_mask(self, inputs, previous_mask=None):
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self):
        return {
            **super().get_config(),
            **self._standardization_config(),
            "axis": self.axis,
        }
