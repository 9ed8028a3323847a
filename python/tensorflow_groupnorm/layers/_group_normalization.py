"""Group normalization as a Keras layer."""

import keras

from .. import ops as fused
from ._common import on_tensorflow, refuse_tf_keras, register, supports_jit

_DEFAULT_GROUPS = 32
_FUSED_ACTIVATIONS = {
    keras.activations.linear: "linear",
    keras.activations.relu: "relu",
    keras.activations.silu: "silu",
}


def _as_float(x):
    return x if keras.backend.is_float_dtype(x.dtype) else keras.ops.cast(x, "float32")


def _compatible(shape, other):
    return len(shape) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(shape, other, strict=True)
    )


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
        scale, shift: tensors `[batch, channels]`, per sample: adaptive group normalization,
            `activation(normalized * (1 + scale) + shift + residual)` with `normalized` the
            result of the plain layer. They become part of the kernel's gamma and beta. The
            kernel needs no other pass over `inputs` for them.

    Raises:
        ValueError: if `group_size` is not a positive int or comes together with `groups`, if
            the groups do not divide the channels, or if `residual`, `scale` or `shift` has
            another shape than stated.

    Reference:
        [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494); `scale` and
        `shift`: [Dhariwal & Nichol, 2021](https://arxiv.org/abs/2105.05233), section 3, with
        `1 + scale` for their `y_s`.
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

    def call(self, inputs, residual=None, mask=None, scale=None, shift=None):
        refuse_tf_keras(self, inputs)
        self._check(inputs, residual, scale, shift)
        if not on_tensorflow():
            outputs = self._modulate(super().call(inputs), scale, shift)
            outputs = outputs if residual is None else outputs + residual
            return self.activation(outputs)
        x = _as_float(inputs)
        gamma, beta = self._gamma_and_beta(x, scale, shift)
        outputs = fused.group_norm(
            x,
            gamma,
            beta,
            self.groups,
            axis=self.axis,
            epsilon=self.epsilon,
            activation=_FUSED_ACTIVATIONS.get(self.activation),
            residual=None if residual is None else _as_float(residual),
        )
        if self.activation not in _FUSED_ACTIVATIONS:
            outputs = self.activation(outputs)
        return keras.ops.cast(outputs, self.compute_dtype)

    def _gamma_and_beta(self, x, scale, shift):
        """(xhat gamma + beta) (1 + scale) + shift as one gamma and one beta."""
        gamma, beta = self.gamma, self.beta
        dtype = "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
        if scale is not None:
            factor = 1 + keras.ops.cast(scale, dtype)
            gamma = factor if gamma is None else keras.ops.cast(gamma, dtype) * factor
            beta = None if beta is None else keras.ops.cast(beta, dtype) * factor
        if shift is not None:
            shift = keras.ops.cast(shift, dtype)
            # Broadcasts to [batch, channels].
            beta = shift if beta is None else keras.ops.cast(beta, dtype) + shift
        return gamma, beta

    def _modulate(self, x, scale, shift):
        shape = [1] * len(x.shape)
        shape[0], shape[self.axis] = -1, x.shape[self.axis]
        if scale is not None:
            x = x * (1 + keras.ops.reshape(scale, shape))
        return x if shift is None else x + keras.ops.reshape(shift, shape)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        rematerialized = super().rematerialized_call

        # In a graph TensorFlow recomputes functions without keyword arguments only.
        def positional_call(inputs, residual=None, mask=None, scale=None, shift=None):
            given = {"residual": residual, "scale": scale, "shift": shift}
            given = {name: tensor for name, tensor in given.items() if tensor is not None}

            def call(inputs, *tensors):
                return layer_call(inputs, **dict(zip(given, tensors, strict=True)))

            return rematerialized(call, *args, **kwargs)(inputs, *given.values())

        return positional_call

    def compute_output_spec(self, inputs, residual=None, mask=None, scale=None, shift=None):
        self._check(inputs, residual, scale, shift)
        return super().compute_output_spec(inputs)

    def _check(self, inputs, residual, scale, shift):
        self._check_residual(inputs, residual)
        expected = (inputs.shape[0], inputs.shape[self.axis])
        for name, tensor in (("scale", scale), ("shift", shift)):
            if tensor is not None and not _compatible(tensor.shape, expected):
                raise ValueError(
                    f"`{name}` must have the shape [batch, channels] of `inputs`, {expected}. "
                    f"Received: {name}.shape={tuple(tensor.shape)}"
                )

    def _check_residual(self, inputs, residual):
        if residual is None:
            return
        same_shape = _compatible(residual.shape, inputs.shape)
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
