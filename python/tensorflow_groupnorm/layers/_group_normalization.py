"""Group normalization as a Keras layer."""

import keras

from .. import ops as fused
from . import _activations, _keras_ops, _tensors
from ._common import on_tensorflow, refuse_tf_keras, register, supports_jit
from ._dtypes import cast, common_dtype, dtype_of

_DEFAULT_GROUPS = 32


@register()
class GroupNormalization(keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` on the fused op, with residual, activation and mask.

    `activation((x - mean) * rstd * gamma + beta + residual)` in one kernel, forward and
    backward. A drop-in: the arguments, the config and the weights of the stock layer, so that
    models, `.keras` and `.weights.h5` files move both ways.

    The layer returns the compute dtype of its dtype policy. It computes in the narrowest dtype
    that holds the values of `inputs`, of `residual` and of that dtype, and rounds once, at the
    end: float16 inputs of a float32 layer are normalized in float32, and so are float32 inputs
    of a `mixed_float16` layer. Integers count as float32. Statistics, `gamma` and `beta` take
    part as float32, as float64 where it computes in float64.

    Args:
        groups: number of groups, a divisor of the number of channels; -1 for as many groups
            as channels (instance normalization). `None` is 32, unless `group_size` is given.
        *args: further positional arguments of `keras.layers.GroupNormalization`.
        group_size: channels per group, instead of `groups`.
        activation: any Keras activation, applied last. ReLU and SiLU are part of the kernel,
            however they are given: `"relu"`, `tf.nn.relu`, `keras.ops.silu`,
            `keras.layers.ReLU()`, `keras.layers.Activation("silu")`.
        use_mask: whether the statistics leave out what the mask of a call masks. They are then
            computed in stock TensorFlow ops, as the kernel takes no mask; a call without a mask
            is the fused one.
        **kwargs: `epsilon`, `center`, `scale` and all other arguments of
            `keras.layers.GroupNormalization`. `axis` is one int, the channel axis.

    Call arguments:
        inputs: tensor of rank >= 2, `[batch, ..., channels]` for the default `axis=-1`, of any
            real dtype.
        residual: tensor of the shape of `inputs`, or with 1 in place of some of its sizes; of any
            real dtype. Added before the activation.
        mask: boolean tensor, true for what counts: `[batch, steps]`, `[batch, height, width]`,
            ..., the first axes of `inputs` other than the channel axis; or as many axes as
            `inputs`. Sizes may be 1. By default the mask that Keras has attached to `inputs`.
            It is passed on. Only with `use_mask=True` does it take part: masked positions do not
            count in the statistics, and the result there is 0. What `inputs` and `residual` hold
            there, NaN included, then changes neither the results nor any gradient.
        scale, shift: tensors `[batch, channels]`, per sample: adaptive group normalization,
            `activation(normalized * (1 + scale) + shift + residual)` with `normalized` the
            result of the plain layer. They become part of the kernel's gamma and beta. The
            kernel needs no other pass over `inputs` for them. Also `[channels]`, and the shape
            of `inputs` with 1 in place of all sizes but these two; `batch` may be 1.

    Raises:
        ValueError: if `group_size` is not a positive int or comes together with `groups`, if
            the groups do not divide the channels, if `axis` is not one axis of `inputs` other
            than the batch axis, if `inputs` is not one dense tensor, or if `residual`, `mask`,
            `scale` or `shift` has another shape than stated.
        TypeError: where a tf-keras model calls the layer.

    Reference:
        [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494); `scale` and
        `shift`: [Dhariwal & Nichol, 2021](https://arxiv.org/abs/2105.05233), section 3, with
        `1 + scale` for their `y_s`.
    """

    def __init__(
        self, groups=None, *args, group_size=None, activation=None, use_mask=False, **kwargs
    ):
        groups, group_size = _tensors.as_int(groups), _tensors.as_int(group_size)
        _tensors.check_groups(groups, group_size)
        super().__init__(_DEFAULT_GROUPS if groups is None else groups, *args, **kwargs)
        self.axis = _tensors.as_int(self.axis)
        _tensors.check_axis(self.axis)
        # Building resolves `groups`; the config keeps what the user asked for.
        self._configured_groups = self.groups if group_size is None else None
        self.group_size = group_size
        self.activation = _activations.resolve(activation, self.compute_dtype)
        self.use_mask = bool(use_mask)
        self.supports_jit = not on_tensorflow() or supports_jit()

    def build(self, input_shape):
        _tensors.check_input_shape(input_shape, self.axis)
        channels = input_shape[self.axis]
        if channels is not None:
            self._resolve_groups(channels)
        super().build(input_shape)
        if isinstance(self.activation, keras.layers.Layer) and not self.activation.built:
            self.activation.build(input_shape)

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
        dtype = self._dtype(inputs, residual)
        x = cast(inputs, dtype)
        gamma, beta = self._gamma_and_beta(x, scale, shift)
        mask = self._counting(inputs, mask)
        fused_activation = _activations.fused_name(self.activation)
        group_norm = fused.group_norm if on_tensorflow() else _keras_ops.group_norm
        outputs = group_norm(
            x,
            gamma,
            beta,
            self.groups,
            axis=self.axis,
            epsilon=self.epsilon,
            activation=fused_activation,
            residual=None if residual is None else _tensors.like(x, residual, dtype),
            mask=mask,
        )
        if fused_activation is None:
            outputs = self.activation(outputs)
            outputs = outputs if mask is None else keras.ops.where(mask, outputs, 0)
        return cast(outputs, self.compute_dtype)

    def _dtype(self, inputs, residual):
        """In which the layer computes: of what it is given, and of what it returns.

        Nothing is rounded before its mean is taken out, or where the result could be held.
        """
        dtypes = [dtype_of(x) for x in (inputs, residual) if x is not None]
        return common_dtype(self.compute_dtype, *dtypes)

    def _counting(self, inputs, mask):
        """The mask that takes part, in the rank of the inputs, or None."""
        mask = self._given_mask(inputs, mask)
        return None if mask is None else _tensors.spread_mask(mask, inputs, self.axis)

    def _given_mask(self, inputs, mask):
        # Keras finds the attached mask by itself only where no other tensor is given.
        attached = getattr(inputs, "_keras_mask", None) if mask is None else mask
        return attached if self.use_mask else None

    def _gamma_and_beta(self, x, scale, shift):
        """(xhat gamma + beta) (1 + scale) + shift as one gamma and one beta."""
        gamma, beta = self.gamma, self.beta
        dtype = "float64" if dtype_of(x) == "float64" else "float32"
        if scale is not None:
            factor = 1 + _tensors.per_channel(scale, x, self.axis, dtype)
            gamma = factor if gamma is None else cast(gamma, dtype) * factor
            beta = None if beta is None else cast(beta, dtype) * factor
        if shift is not None:
            shift = _tensors.per_channel(shift, x, self.axis, dtype)
            # Broadcasts to [batch, channels].
            beta = shift if beta is None else cast(beta, dtype) + shift
        return gamma, beta

    def rematerialized_call(self, layer_call, *args, **kwargs):
        rematerialized = super().rematerialized_call

        # In a graph TensorFlow recomputes functions without keyword arguments only.
        def positional_call(inputs, residual=None, mask=None, scale=None, shift=None):
            mask = self._given_mask(inputs, mask)
            given = {"residual": residual, "scale": scale, "shift": shift}
            given = {name: tensor for name, tensor in given.items() if tensor is not None}

            # A mask has no gradient: it may come from outside.
            def call(inputs, *tensors):
                return layer_call(inputs, mask=mask, **dict(zip(given, tensors, strict=True)))

            return rematerialized(call, *args, **kwargs)(inputs, *given.values())

        return positional_call

    def compute_output_spec(self, inputs, residual=None, mask=None, scale=None, shift=None):
        self._check(inputs, residual, scale, shift)
        self._dtype(inputs, residual)
        mask = self._given_mask(inputs, mask)
        if mask is not None:
            _tensors.check_mask(mask, inputs, self.axis)
        return super().compute_output_spec(inputs)

    def _check(self, inputs, residual, scale, shift):
        _tensors.check_inputs(inputs)
        _tensors.check_residual(residual, inputs)
        _tensors.check_per_channel("scale", scale, inputs, self.axis)
        _tensors.check_per_channel("shift", shift, inputs, self.axis)

    def get_config(self):
        config = super().get_config()
        # None, too, says that `group_size` is given.
        config["groups"] = self._configured_groups
        # What is at its default is left out: the stock layer loads the config then.
        if self.group_size is not None:
            config["group_size"] = self.group_size
        if self.activation is not keras.activations.linear:
            config["activation"] = _activations.serialize(self.activation)
        if self.use_mask:
            config["use_mask"] = True
        return config

    @classmethod
    def from_config(cls, config):
        # Version 0.1.0 wrote the default number of groups beside a group size.
        if config.get("group_size") is not None and config.get("groups") == _DEFAULT_GROUPS:
            config = {**config, "groups": None}
        return super().from_config(config)
