"""Group normalization as a Keras layer."""

import keras

from .. import ops as fused
from ._common import on_tensorflow, register, supports_jit

_DEFAULT_GROUPS = 32
_FUSED_ACTIVATIONS = {
    keras.activations.linear: "linear",
    keras.activations.relu: "relu",
    keras.activations.silu: "silu",
}


def _as_float(x):
    return x if keras.backend.is_float_dtype(x.dtype) else keras.ops.cast(x, "float32")


@register()
class GroupNormalization(keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` on the fused op, with residual and activation.

    `activation((x - mean) * rstd * gamma + beta + residual)` in one kernel, forward and
    backward. The statistics, `gamma` and `beta` are float32 (float64 for float64 inputs)
    whatever the dtype policy. A drop-in: the arguments, the config and the weights of the
    stock layer, so that models, `.keras` and `.weights.h5` files move both ways.

    Args:
        groups: number of groups, a divisor of the number of channels; -1 for as many groups
            as channels (instance normalization). Defaults to 32.
        *args: further positional arguments of `keras.layers.GroupNormalization`.
        group_size: channels per group, instead of `groups`.
        activation: any Keras activation, applied last. `"relu"` and `"silu"` are part of the
            kernel.
        **kwargs: `axis`, `epsilon`, `center`, `scale` and all other arguments of
            `keras.layers.GroupNormalization`.

    Call arguments:
        inputs: tensor of rank >= 2, `[batch, ..., channels]` for the default `axis=-1`.
        residual: tensor of the shape and dtype of `inputs`, added before the activation.
        mask: passed on, and not used: masked positions take part in the statistics, as in
            the stock layer.

    Raises:
        ValueError: if `group_size` is not a positive int or comes together with `groups`, or
            if the groups do not divide the channels.

    Reference:
        [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494).
    """

    def __init__(self, groups=_DEFAULT_GROUPS, *args, group_size=None, activation=None, **kwargs):
        super().__init__(groups, *args, **kwargs)
        if group_size is not None:
            if not isinstance(group_size, int) or group_size <= 0:
                raise ValueError(
                    "`group_size` must be None or a positive integer, the number of channels "
                    f"per group. Received: group_size={group_size!r}"
                )
            if groups != _DEFAULT_GROUPS:
                raise ValueError(
                    "Give either `groups` or `group_size`, not both. "
                    f"Received: groups={groups}, group_size={group_size}"
                )
        self.group_size = group_size
        self.activation = keras.activations.get(activation)
        self._configured_groups = None
        self.supports_jit = not on_tensorflow() or supports_jit()

    def build(self, input_shape):
        # Building resolves `groups`; the config keeps what the user asked for.
        self._configured_groups = self.groups
        channels = input_shape[self.axis]
        if channels is not None:
            self._resolve_groups(channels)
        super().build(input_shape)

    def _resolve_groups(self, channels):
        if self.group_size is not None:
            if channels % self.group_size:
                raise ValueError(
                    "`group_size` must divide the number of channels. "
                    f"Received: group_size={self.group_size} for {channels} channels"
                )
            self.groups = channels // self.group_size
        elif 0 < self.groups <= channels and channels % self.groups:
            raise ValueError(
                f"`groups` must divide the number of channels. Received: groups={self.groups} "
                f"for {channels} channels. (Keras puts it as: the groups must be a multiple of "
                "the number of channels.)"
            )

    def call(self, inputs, residual=None, mask=None):
        self._check_residual(inputs, residual)
        if not on_tensorflow():
            outputs = super().call(inputs)
            outputs = outputs if residual is None else outputs + residual
            return self.activation(outputs)
        outputs = fused.group_norm(
            _as_float(inputs),
            self.gamma,
            self.beta,
            self.groups,
            axis=self.axis,
            epsilon=self.epsilon,
            activation=_FUSED_ACTIVATIONS.get(self.activation),
            residual=None if residual is None else _as_float(residual),
        )
        if self.activation not in _FUSED_ACTIVATIONS:
            outputs = self.activation(outputs)
        return keras.ops.cast(outputs, self.compute_dtype)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        call = super().rematerialized_call(layer_call, *args, **kwargs)

        # In a graph TensorFlow recomputes functions without keyword arguments only.
        def positional_call(inputs, residual=None, mask=None):
            return call(inputs) if residual is None else call(inputs, residual)

        return positional_call

    def compute_output_spec(self, inputs, residual=None, mask=None):
        self._check_residual(inputs, residual)
        return super().compute_output_spec(inputs)

    def _check_residual(self, inputs, residual):
        if residual is None:
            return
        same_shape = len(residual.shape) == len(inputs.shape) and all(
            a is None or b is None or a == b
            for a, b in zip(residual.shape, inputs.shape, strict=True)
        )
        dtypes = [keras.backend.standardize_dtype(x.dtype) for x in (inputs, residual)]
        if not same_shape or dtypes[0] != dtypes[1]:
            raise ValueError(
                "`residual` must have the shape and dtype of `inputs`, "
                f"{tuple(inputs.shape)} and {dtypes[0]}. "
                f"Received: residual.shape={tuple(residual.shape)}, residual.dtype={dtypes[1]}"
            )

    def get_config(self):
        config = super().get_config()
        if self._configured_groups is not None:
            config["groups"] = self._configured_groups
        # What is at its default is left out: the stock layer loads the config then.
        if self.group_size is not None:
            config["group_size"] = self.group_size
        if self.activation is not keras.activations.linear:
            config["activation"] = keras.activations.serialize(self.activation)
        return config
