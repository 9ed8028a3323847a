"""Weight standardization around any Keras layer that has a kernel."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import keras

from .._keras import NamedInFiles, is_default, register
from .._types import KerasTensor
from ._common import refuse_tf_keras, supports_jit
from ._kernel_weights import Kernel, kernels_within
from ._rematerialization import rematerialize_inside, standardize_when_recomputed
from ._standardized_weights import HasStandardizedWeights, refuse_quantization
from ._weight_scope import WeightScope


def _of_the_layer(name: str) -> property:
    """Returns a property for an attribute of the wrapped layer; absent if the layer lacks it."""
    return property(
        lambda self: getattr(self.layer, name),
        lambda self, value: setattr(self.layer, name, value),
        doc=f"`{name}` of the wrapped layer.",
    )


@register()
class WeightStandardization(HasStandardizedWeights, keras.layers.Wrapper, metaclass=NamedInFiles):
    """Standardizes the kernels of the wrapped layer at each call.

    The wrapped layer computes with `gain * scale * (kernel - mean) * rstd`, where `mean` and `rstd`
    are taken per output channel. Its variables stay as they are, and gradients pass through the
    standardization. Kernels are read in the precision in which they are stored and standardized in
    float32 (float64 for float64 kernels), also under mixed precision.

    >>> layer = WeightStandardization(keras.layers.Conv2D(64, 3, use_bias=False))

    Prefer a `Standardized...` layer (`StandardizedConv2D`, ...) where there is one: it also reads
    and writes the `.weights.h5` files of the stock layer.

    The wrapper takes the call arguments of the wrapped layer (inputs, masks, states, `training`)
    and returns its results. By default it standardizes these kernels; the last column names the
    weights that hold their gains:

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

    Recurrent kernels are standardized once per call, not once per time step; each gate of each unit
    is an output channel. `Bidirectional(WeightStandardization(LSTM(8)))` works as well.

    Under `keras.RematScope`, the call of the wrapped layer is rematerialized together with the
    standardization. `model.quantize` skips the wrapped layer with a warning;
    `tfgn.fold(model).quantize` does not.

    Args:
        layer: the layer to wrap, see above. To standardize the cell of a recurrent layer, wrap its
            `RNN`.
        variant: the published definition to follow, see `tensorflow_groupnorm.standardize_weights`.
        epsilon: None for the default of the variant.
        gain: whether to learn a factor per output channel (weights named `gain`, initially ones).
        axis: int or list of ints, the output-channel axes of each kernel. None finds them by the
            type of the layer that has the kernel; for layers that are not part of Keras it is the
            last axis.
        kernels: str or list of str, the kernels to standardize: attributes of the layer that has
            the kernels (`"recurrent_kernel"`), or dotted paths from `layer`
            (`"attention.query_dense.kernel"`, `"layers.0.kernel"`), each a `keras.Variable`. None
            for those above.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. The default dtype
            policy is that of `layer`.

    Raises:
        ValueError: if `layer` is not a layer, is a cell, lacks a kernel, has a kernel that is not a
            `keras.Variable`, or already standardizes its kernel.
        RuntimeError: in a call, if the wrapped layer does not read the kernel, assigns to it, or
            reads it where its gradient would be lost: in a `tf.function` or in a function with a
            custom gradient (`tf.custom_gradient`, `keras.remat`) within its `call`.
        NotImplementedError: if the wrapped layer is quantized, or is to be.

    Reference:
        [Qiao et al., 2019, Weight Standardization](https://arxiv.org/abs/1903.10520).
    """

    # Attributes that `Bidirectional` and training loops use of a recurrent layer.
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
        layer: keras.layers.Layer | None = None,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        axis: int | Sequence[int] | None = None,
        kernels: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        layer = _checked_layer(layer)
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

    def _take_signatures(self, layer: keras.layers.Layer) -> None:
        """Makes Keras treat arguments of `call` and `build` as those of the wrapped layer."""
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
        # Keras has made `build` an attribute of this layer.
        self.build.__signature__ = inspect.signature(layer.build)  # type: ignore[attr-defined]

    @property
    def _target(self) -> keras.layers.Layer:
        """The layer within `TimeDistributed`; `.keras` files hold its weights under this name."""
        layer = self.layer
        while isinstance(layer, keras.layers.TimeDistributed):
            layer = layer.layer
        return layer

    def _kernels(self) -> list[Kernel]:
        return kernels_within(self.layer, self.kernels, self.axis)

    def build(self, *args: Any, **shapes: Any) -> None:
        layer = self.layer
        # Keras marks a loaded layer without a `build` as built although its children are not.
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

    def get_build_config(self) -> dict[str, Any] | None:
        return self.layer.get_build_config()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        refuse_tf_keras(self, (args, kwargs))
        with WeightScope(self, lambda: self._standardized(self._kernels())):
            return self.layer(*args, **kwargs)

    def rematerialized_call(
        self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Callable[..., Any]:
        """Leaves rematerialization to the wrapped layer, which has the mode of the wrapper."""
        return layer_call

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: KerasTensor, previous_mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def quantize(self, mode: str | None = None, **kwargs: Any) -> None:
        refuse_quantization(self, mode)

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            **self._standardization_config(),
            "axis": self.axis,
        }
        if self.kernels is not None:
            config["kernels"] = list(self.kernels)
        return config

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> WeightStandardization:
        config = dict(config)
        if "go_backwards" in config:  # `Bidirectional` reverses its copy of the layer this way.
            layer = config["layer"]
            turned = {**layer["config"], "go_backwards": config.pop("go_backwards")}
            config["layer"] = {**layer, "config": turned}
        return super().from_config(config, custom_objects)


def _checked_layer(layer: Any) -> keras.layers.Layer:
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(
            "WeightStandardization standardizes the kernel of the layer that it wraps, not of "
            "the next layer: write WeightStandardization(keras.layers.Conv2D(8, 3)), or "
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
    return layer


def _check_not_standardized(
    layer: keras.layers.Layer, owners: Sequence[keras.layers.Layer]
) -> None:
    for part in layer._flatten_layers():
        if isinstance(part, HasStandardizedWeights) and any(
            owner in part._flatten_layers() for owner in owners
        ):
            _refuse_standardized(part)


def _refuse_standardized(layer: keras.layers.Layer) -> NoReturn:
    raise ValueError(
        "WeightStandardization cannot wrap a layer whose kernel is already standardized. "
        f"Received: layer={layer!r}"
    )


def _checked_names(kernels: Any) -> tuple[str, ...] | None:
    if kernels is None:
        return None
    names = (kernels,) if isinstance(kernels, str) else kernels
    if isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names):
        return tuple(names)
    raise ValueError(
        "`kernels` must be a name or a list of names of kernels of the wrapped layer, such as "
        f'["kernel", "recurrent_kernel"]. Received: kernels={kernels!r}'
    )


def _build_by_a_run(layer: keras.layers.Layer, *args: Any, **shapes: Any) -> None:
    if args or len(shapes) == 1:
        layer._build_by_run_for_single_pos_arg(*args, *shapes.values())
    else:
        layer._build_by_run_for_kwargs(shapes)


def _refuse_to_quantize(
    layer: keras.layers.Layer, mode: str | None = None, config: Any = None, **kwargs: Any
) -> None:
    refuse_quantization(layer, mode or getattr(config, "mode", "int8"))
