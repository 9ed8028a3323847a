"""Weight standardization around any Keras layer that has a kernel."""

import functools
import inspect

import keras

from .._keras import is_default
from ._common import refuse_tf_keras, register, supports_jit
from ._kernel_weights import kernels_within
from ._rematerialization import rematerialize_inside, standardize_when_recomputed
from ._standardized_weights import HasStandardizedWeights, refuse_quantization
from ._weight_scope import WeightScope


def _of_the_layer(name):
    """Returns a property that is an attribute of the wrapped layer, there only where it has it."""
    return property(
        lambda self: getattr(self.layer, name),
        lambda self, value: setattr(self.layer, name, value),
        doc=f"`{name}` of the wrapped layer.",
    )


@register()
class WeightStandardization(HasStandardizedWeights, keras.layers.Wrapper):
    """Standardizes the kernels of the layer it wraps, at each call.

    The wrapped layer computes with `gain * scale * (kernel - mean) * rstd`, the statistics being
    those of each output channel; its variable stays as it is, and gradients go through the
    standardization. Kernels are read in the precision in which they are stored and standardized
    in float32 (float64 for float64 kernels), also under mixed precision.

    >>> layer = WeightStandardization(keras.layers.Conv2D(64, 3, use_bias=False))

    Where a stock layer has a `Standardized...` counterpart (`StandardizedConv2D`, ...), that one
    also keeps the stock layer's place in `.weights.h5` files.

    It is called as the wrapped layer is: with the same inputs, masks, states and `training`, and
    returns the same. What is standardized by default, and the weight that holds its gain:

    | layer | kernels | gains |
    |---|---|---|
    | convolutions, `Dense`, `EinsumDense`, any other layer with a `kernel` | `kernel` | `gain` |
    | separable convolutions | `depthwise_kernel`, `pointwise_kernel` | `depthwise_gain`, ... |
    | `LSTM`, `GRU`, `SimpleRNN`, `ConvLSTM1D/2D/3D`, `RNN(cell)` | `kernel` and \
`recurrent_kernel` of the cell | `gain`, `recurrent_gain` |
    | `RNN` of several cells | those of each cell | `cell_0_gain`, ... |
    | `Bidirectional` | those of both layers | `forward_gain`, `backward_recurrent_gain`, ... |
    | `MultiHeadAttention`, `GroupQueryAttention` | `kernel` of each projection | `query_gain`, \
`attention_output_gain`, ... |
    | `TimeDistributed` and other wrappers | those of the layer in it | the same |

    Recurrent kernels are standardized once per call, not once per time step; each gate of each
    unit is an output channel. `Bidirectional(WeightStandardization(LSTM(8)))` works as well.

    Under `keras.RematScope` the call of the wrapped layer is what is rematerialized, the
    standardization with it. `model.quantize` leaves the wrapped layer as it is, with a warning.

    Args:
        layer: the layer to wrap, see above. A cell of a recurrent layer is wrapped together with
            its `RNN`.
        variant: which published definition, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the variant's own.
        gain: whether to learn a factor per output channel (weights named `gain`, ones at first).
        axis: int or list of ints, the output-channel axes of each kernel. None finds them by the
            type of the layer that has the kernel, the last axis for one that is not Keras' own.
        kernels: str or list of str, the kernels to standardize: attributes of the layer that has
            the kernels (`"recurrent_kernel"`), or paths from `layer` with dots
            (`"attention.query_dense.kernel"`, `"layers.0.kernel"`), each a `keras.Variable`. None
            for those above.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. The dtype policy is
            that of `layer` unless given.

    Raises:
        ValueError: if `layer` is no layer, is a cell, has no such kernel, has one that is no
            `keras.Variable`, or standardizes its kernel already.
        RuntimeError: in a call, if the wrapped layer does not read the kernel, assigns to it, or
            reads it where its gradient would be lost: in a `tf.function` or a function with a
            gradient of its own (`tf.custom_gradient`, `keras.remat`) within its `call`.
        NotImplementedError: at `quantize` of the wrapped layer, and if it is quantized.

    Reference:
        [Qiao et al., 2019, Weight Standardization](https://arxiv.org/abs/1903.10520).
    """

    # What `Bidirectional` and training loops ask of a recurrent layer.
    go_backwards = _of_the_layer("go_backwards")
    return_sequences = _of_the_layer("return_sequences")
    return_state = _of_the_layer("return_state")
    stateful = _of_the_layer("stateful")
    states = _of_the_layer("states")
    unroll = _of_the_layer("unroll")
    use_cudnn = _of_the_layer("use_cudnn")
    zero_output_for_mask = _of_the_layer("zero_output_for_mask")
    reset_state = _of_the_layer("reset_state")
    reset_states = _of_the_layer("reset_states")

    def __init__(
        self,
        layer=None,
        variant="bit",
        epsilon=None,
        gain=False,
        axis=None,
        kernels=None,
        **kwargs,
    ):
        _check_layer(layer)
        kwargs.setdefault("dtype", layer.dtype_policy)
        kwargs.setdefault("autocast", layer.autocast)
        super().__init__(layer, **kwargs)
        self._init_standardization(variant, epsilon, gain)
        self.axis = axis
        self.kernels = _checked_names(kernels)
        self.supports_masking = layer.supports_masking
        self.supports_jit = layer.supports_jit and supports_jit()
        self._take_signatures(layer)
        rematerialize_inside(self)

    def _take_signatures(self, layer):
        """Has Keras treat the arguments of `call` and `build` as those of the wrapped layer."""
        for name in (
            "_allow_non_tensor_positional_args",
            "_call_context_args",
            "_call_has_context_arg",
            "_call_has_mask_arg",
            "_call_has_training_arg",
            "_call_signature",
            "_convert_input_args",
            "call_signature_parameters",
        ):
            setattr(self, name, getattr(layer, name))
        self.build.__signature__ = inspect.signature(layer.build)

    @property
    def _target(self):
        """The layer within `TimeDistributed`; `.keras` files hold the weights under this name."""
        layer = self.layer
        while isinstance(layer, keras.layers.TimeDistributed):
            layer = layer.layer
        return layer

    def _kernels(self):
        return kernels_within(self.layer, self.kernels, self.axis)

    def build(self, *args, **shapes):
        layer = self.layer
        # A layer without a `build` is said to be built once it is loaded, its children are not.
        if is_default(layer.build) and not all(part.built for part in layer._layers):
            _build_by_a_run(layer, *args, **shapes)
        if not layer.built:
            layer.build(*args, **shapes)
            layer.built = True
        kernels = self._kernels()
        owners = [kernel.owner for kernel in kernels]
        _check_not_standardized(layer, owners)
        self._build_gains(kernels)
        standardize_when_recomputed(layer, owners)
        for owner in owners:
            owner.quantize = functools.partial(_refuse_to_quantize, owner)

    def get_build_config(self):
        return self.layer.get_build_config()

    def call(self, *args, **kwargs):
        refuse_tf_keras(self, (args, kwargs))
        with WeightScope(self, lambda: self._standardized(self._kernels())):
            return self.layer(*args, **kwargs)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        """Leaves rematerialization to the wrapped layer, which has the mode of the wrapper."""
        return layer_call

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs, previous_mask=None):
        return self.layer.compute_mask(inputs, previous_mask)

    def quantize(self, mode=None, **kwargs):
        refuse_quantization(self, mode)

    def get_config(self):
        config = {
            **super().get_config(),
            **self._standardization_config(),
            "axis": self.axis,
        }
        if self.kernels is not None:
            config["kernels"] = list(self.kernels)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if "go_backwards" in config:  # `Bidirectional` turns the copy of a layer around so.
            layer = config["layer"]
            turned = {**layer["config"], "go_backwards": config.pop("go_backwards")}
            config["layer"] = {**layer, "config": turned}
        return super().from_config(config, custom_objects)


def _check_layer(layer):
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(
            "WeightStandardization standardizes the kernel of the layer that it wraps, not of "
            "the next one: write WeightStandardization(keras.layers.Conv2D(8, 3)), or "
            f"StandardizedConv2D(8, 3). Received: layer={layer!r}"
        )
    if isinstance(layer, HasStandardizedWeights):
        _refuse_standardized(layer)
    if hasattr(layer, "state_size") and not isinstance(layer, keras.layers.RNN):
        raise ValueError(
            "WeightStandardization wraps a recurrent layer together with its cell, so that kernels "
            "are standardized once per call and not at each time step: write "
            "WeightStandardization(keras.layers.RNN(cell)) or WeightStandardization("
            f"keras.layers.LSTM(8)). Received: layer={layer!r}"
        )


def _check_not_standardized(layer, owners):
    for part in layer._flatten_layers():
        if isinstance(part, HasStandardizedWeights) and any(
            owner in part._flatten_layers() for owner in owners
        ):
            _refuse_standardized(part)


def _refuse_standardized(layer):
    raise ValueError(
        "WeightStandardization wraps a layer whose kernel is not standardized yet. "
        f"Received: layer={layer!r}"
    )


def _checked_names(kernels):
    if kernels is None:
        return None
    names = (kernels,) if isinstance(kernels, str) else kernels
    if isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names):
        return tuple(names)
    raise ValueError(
        "`kernels` is a name or a list of names of the wrapped layer's kernels, such as "
        f'["kernel", "recurrent_kernel"]. Received: kernels={kernels!r}'
    )


def _build_by_a_run(layer, *args, **shapes):
    if args or len(shapes) == 1:
        layer._build_by_run_for_single_pos_arg(*args, *shapes.values())
    else:
        layer._build_by_run_for_kwargs(shapes)


def _refuse_to_quantize(layer, mode=None, config=None, **kwargs):
    refuse_quantization(layer, mode or getattr(config, "mode", "int8"))
