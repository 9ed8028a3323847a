"""Group normalization as a Keras layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from .. import ops as fused
from .._keras import NamedInFiles, get_keras_mask, on_tensorflow, register
from .._types import Activation, Constraint, Initializer, KerasTensor, Regularizer, Shape
from . import _activations, _keras_ops, _tensors
from ._common import refuse_tf_keras, supports_jit
from ._dtypes import cast, common_dtype, dtype_of
from ._operands import Operands, capture_of

_DEFAULT_GROUPS = 32


@register()
class GroupNormalization(keras.layers.GroupNormalization, metaclass=NamedInFiles):
    """`keras.layers.GroupNormalization` on the fused op, with residual, activation and mask.

    `activation((x - mean) * rstd * gamma + beta + residual)` in one kernel, forward and backward.
    The layer is a drop-in replacement: it has the arguments, the config and the weights of the
    stock layer, so that models, `.keras` and `.weights.h5` files move both ways.

    The layer returns the compute dtype of its dtype policy. It computes in the narrowest dtype that
    represents the values of `inputs`, of `residual` and of that compute dtype, and rounds once, at
    the end. A float32 layer normalizes float16 inputs in float32, and a `mixed_float16` layer
    normalizes float32 inputs in float32. Integers count as float32. Statistics, `gamma` and `beta`
    are float32 (float64 if the layer computes in float64).

    Args:
        groups: number of groups, a divisor of the number of channels; -1 for as many groups
            as channels (instance normalization). `None` is 32, unless `group_size` is given.
        axis: int, the channel axis.
        epsilon: added to the variance.
        center: whether to add a learned `beta`.
        scale: whether to multiply by a learned `gamma`.
        beta_initializer: initializer of `beta`.
        gamma_initializer: initializer of `gamma`.
        beta_regularizer: regularizer of `beta`, or `None`.
        gamma_regularizer: regularizer of `gamma`, or `None`.
        beta_constraint: constraint on `beta`, or `None`.
        gamma_constraint: constraint on `gamma`, or `None`.
        group_size: channels per group, instead of `groups`.
        activation: any Keras activation, applied last. The kernel includes ReLU and SiLU in any of
            their forms: `"relu"`, `tf.nn.relu`, `keras.ops.silu`, `keras.layers.ReLU()`,
            `keras.layers.Activation("silu")`.
        use_mask: whether statistics exclude the positions that the mask of a call masks. Calls with
            a mask then run in stock TensorFlow ops, as the kernel takes no mask; calls without a
            mask stay fused.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of rank >= 2, `[batch, ..., channels]` for the default `axis=-1`, of any
            real dtype.
        residual: tensor of any real dtype, added before the activation. It has the shape of
            `inputs`, or 1 in place of some of its sizes.
        mask: boolean tensor, true at the positions to use. Its axes are the leading axes of
            `inputs` without the channel axis (`[batch, steps]`, `[batch, height, width]`, ...), or
            all axes of `inputs`. Sizes may be 1. The default is the mask that Keras has attached to
            `inputs`. The layer passes the mask on. It uses the mask only if `use_mask=True`:
            statistics then exclude masked positions, where the result is 0. The values of `inputs`
            and `residual` at these positions, even NaN, affect neither results nor gradients.
        scale, shift: tensors `[batch, channels]` for adaptive group normalization,
            `activation(normalized * (1 + scale) + shift + residual)`, where `normalized` is the
            result of the plain layer. They are merged into gamma and beta and need no further pass
            over `inputs`. Other accepted shapes: `[channels]`, and the shape of `inputs` with 1 in
            place of all sizes but these two; `batch` may be 1.

    Raises:
        ValueError: if `group_size` is not a positive int or is given together with `groups`, if the
            groups do not divide the channels, if `axis` is not one axis of `inputs` other than the
            batch axis, if `inputs` is not one dense tensor, or if the shape of `residual`, `mask`,
            `scale` or `shift` is not as described above.
        TypeError: if a tf-keras model calls the layer.

    Reference:
        [Wu & He, 2018, Group Normalization](https://arxiv.org/abs/1803.08494); `scale` and
        `shift`: [Dhariwal & Nichol, 2021](https://arxiv.org/abs/2105.05233), section 3, with
        `1 + scale` for their `y_s`.
    """

    groups: int
    axis: int

    def __init__(
        self,
        groups: int | None = None,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Initializer = "zeros",
        gamma_initializer: Initializer = "ones",
        beta_regularizer: Regularizer = None,
        gamma_regularizer: Regularizer = None,
        beta_constraint: Constraint = None,
        gamma_constraint: Constraint = None,
        *,
        group_size: int | None = None,
        activation: Activation = None,
        use_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        groups, group_size = _tensors.as_int(groups), _tensors.as_int(group_size)
        _tensors.check_groups(groups, group_size)
        super().__init__(
            groups=_DEFAULT_GROUPS if groups is None else groups,
            axis=axis,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        self.axis = _tensors.as_int(self.axis)
        _tensors.check_axis(self.axis)
        # `build` resolves `groups`; the config keeps the argument.
        self._configured_groups = self.groups if group_size is None else None
        self.group_size = group_size
        self.activation = _activations.resolve(activation, self.compute_dtype)
        self.use_mask = bool(use_mask)
        self.supports_jit = not on_tensorflow() or supports_jit()

    def build(self, input_shape: Shape) -> None:
        _tensors.check_input_shape(input_shape, self.axis)
        channels = input_shape[self.axis]
        if channels is not None:
            self._resolve_groups(channels)
        super().build(input_shape)
        if isinstance(self.activation, keras.layers.Layer) and not self.activation.built:
            self.activation.build(input_shape)

    def _resolve_groups(self, channels: int) -> None:
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
                f"for {channels} channels. (In the words of Keras: the groups must be a multiple "
                "of the number of channels.)"
            )

    def call(
        self,
        inputs: KerasTensor,
        residual: KerasTensor | None = None,
        mask: KerasTensor | None = None,
        scale: KerasTensor | None = None,
        shift: KerasTensor | None = None,
    ) -> KerasTensor:
        refuse_tf_keras(self, inputs)
        self._check(inputs, residual, scale, shift)
        dtype = self._dtype(inputs, residual)
        x = cast(inputs, dtype)
        gamma, beta = self._gamma_and_beta(x, scale, shift)
        mask = self._counting(inputs, mask)
        fused_activation = _activations.fused_name(self.activation)
        residual = None if residual is None else _tensors.like(x, residual, dtype)
        operands = Operands(
            x=x,
            gamma=gamma,
            beta=beta,
            residual=residual,
            groups=self.groups,
            axis=self.axis,
            epsilon=self.epsilon,
            activation=fused_activation,
        )
        captured = capture_of(self)
        if captured is not None and fused_activation is not None:
            return captured.take(operands)
        group_norm = fused.group_norm if on_tensorflow() else _keras_ops.group_norm
        outputs = group_norm(**vars(operands), mask=mask)
        if fused_activation is None:
            outputs = self.activation(outputs)
            outputs = outputs if mask is None else keras.ops.where(mask, outputs, 0)
        return cast(outputs, self.compute_dtype)

    def _dtype(self, inputs: KerasTensor, residual: KerasTensor | None) -> str:
        """The dtype in which the layer computes: the common one of what it takes and returns.

        Inputs are not rounded before their mean is subtracted, nor results that their dtype holds.
        """
        dtypes = [dtype_of(x) for x in (inputs, residual) if x is not None]
        return common_dtype(self.compute_dtype, *dtypes)

    def _counting(self, inputs: KerasTensor, mask: KerasTensor | None) -> KerasTensor | None:
        """The mask that the layer uses, with the rank of the inputs, or None."""
        mask = self._given_mask(inputs, mask)
        return None if mask is None else _tensors.spread_mask(mask, inputs, self.axis)

    def _given_mask(self, inputs: KerasTensor, mask: KerasTensor | None) -> KerasTensor | None:
        # Keras passes the attached mask by itself only if no other tensor is given.
        attached = get_keras_mask(inputs) if mask is None else mask
        return attached if self.use_mask else None

    def _gamma_and_beta(
        self, x: KerasTensor, scale: KerasTensor | None, shift: KerasTensor | None
    ) -> tuple[KerasTensor | None, KerasTensor | None]:
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

    def rematerialized_call(
        self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Callable[..., Any]:
        rematerialized = super().rematerialized_call

        # In a graph, TensorFlow recomputes only functions without keyword arguments.
        def positional_call(
            inputs: KerasTensor,
            residual: KerasTensor | None = None,
            mask: KerasTensor | None = None,
            scale: KerasTensor | None = None,
            shift: KerasTensor | None = None,
        ) -> KerasTensor:
            mask = self._given_mask(inputs, mask)
            given = {"residual": residual, "scale": scale, "shift": shift}
            given = {name: tensor for name, tensor in given.items() if tensor is not None}

            # A mask has no gradient and can therefore be captured.
            def call(inputs: KerasTensor, *tensors: KerasTensor) -> KerasTensor:
                return layer_call(inputs, mask=mask, **dict(zip(given, tensors, strict=True)))

            return rematerialized(call, *args, **kwargs)(inputs, *given.values())

        return positional_call

    def compute_output_spec(
        self,
        inputs: KerasTensor,
        residual: KerasTensor | None = None,
        mask: KerasTensor | None = None,
        scale: KerasTensor | None = None,
        shift: KerasTensor | None = None,
    ) -> KerasTensor:
        self._check(inputs, residual, scale, shift)
        self._dtype(inputs, residual)
        mask = self._given_mask(inputs, mask)
        if mask is not None:
            _tensors.check_mask(mask, inputs, self.axis)
        return super().compute_output_spec(inputs)

    def _check(
        self,
        inputs: KerasTensor,
        residual: KerasTensor | None,
        scale: KerasTensor | None,
        shift: KerasTensor | None,
    ) -> None:
        _tensors.check_inputs(inputs)
        _tensors.check_residual(residual, inputs)
        _tensors.check_per_channel("scale", scale, inputs, self.axis)
        _tensors.check_per_channel("shift", shift, inputs, self.axis)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        # None if `group_size` is given.
        config["groups"] = self._configured_groups
        # Without the arguments at their defaults, the stock layer loads the config too.
        if self.group_size is not None:
            config["group_size"] = self.group_size
        if self.activation is not keras.activations.linear:
            config["activation"] = _activations.serialize(self.activation)
        if self.use_mask:
            config["use_mask"] = True
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GroupNormalization:
        # Version 0.1.0 wrote the default number of groups next to a group size.
        if config.get("group_size") is not None and config.get("groups") == _DEFAULT_GROUPS:
            config = {**config, "groups": None}
        return super().from_config(config)
