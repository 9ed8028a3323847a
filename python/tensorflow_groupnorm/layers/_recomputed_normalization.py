"""A normalization whose output is computed again in the backward pass instead of being kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf
from tensorflow.python.eager import forwardprop_util, record

from .. import ops as fused
from .._keras import (
    NamedInFiles,
    current_precision,
    get_keras_mask,
    on_tensorflow,
    register,
    take_place,
)
from .._types import KerasTensor, Shape
from . import _activations
from ._common import refuse_tf_keras
from ._dtypes import cast
from ._group_normalization import GroupNormalization
from ._linear import why_not_linear
from ._operands import Operands, capture
from ._recomputation import Recomputation
from ._rematerialization import is_rematerialized, rematerialized
from ._weight_scope import in_foreign_scope

_Layers: TypeAlias = keras.layers.Layer | Sequence[keras.layers.Layer | Sequence[Any]]


@register()
class RecomputedNormalization(keras.layers.Layer, metaclass=NamedInFiles):
    """A group normalization and the linear layers that read its output, trained in less memory.

    A plain `normalization` keeps its input for the backward pass, and a convolution behind it keeps
    the normalized tensor. This layer keeps only the input (and the residual, if there is one). In
    the backward pass, the kernel that computes the gradient of the normalization writes the
    normalized tensor again, and the gradients of the convolutions' kernels are computed from that.
    Standardized kernels are computed again, too. Outputs, losses and gradients are those of the
    plain layers, bit by bit. (To rounding, with three or more readers, whose gradients may be added
    in another order, and where TensorFlow fuses a convolution with what follows it in only one of
    the two graphs.)

    >>> block = RecomputedNormalization(
    ...     GroupNormalization(32, activation="relu"), StandardizedConv2D(64, 3, padding="same")
    ... )

    The layers in it keep their variables, names, dtype policies and `trainable`, and are saved with
    this layer. Where nothing is recorded for a gradient (inference, export), the layer runs the
    plain layers. It also does so, and saves no memory, for masked inputs, in forward-mode
    differentiation, in a `stateless_call`, where a layer in it is under `keras.RematScope` or
    quantized, where the op library could not be loaded, and with Keras backends other than
    TensorFlow.

    In a `tf.function`, no convolution runs twice, except for the depthwise half of a separable
    convolution. Without a `tf.function`, each layer runs twice more in the backward pass.

    Args:
        normalization: a `GroupNormalization` with the activation `None`, `"relu"` or `"silu"`.
        layers: the layer that reads the normalized tensor, or a list with an item for each reader:
            a layer, a list of layers that are applied one after the other, as in
            `[ZeroPadding2D(1), Conv2D(64, 3)]`, or an empty list for the normalized tensor itself.
            Each layer must be linear in its input, up to a bias: convolutions of any kind, `Dense`,
            `EinsumDense`, their standardized forms, `WeightStandardization` around them, padding,
            cropping, average pooling, upsampling, `Flatten`, `Reshape`, `Permute`.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`. The default dtype
            policy is that of `normalization`.

    Call arguments:
        inputs, residual, mask, scale, shift: as for `GroupNormalization`.

    Returns:
        The output of the layer, or a list with an output for each item of `layers`.

    Raises:
        ValueError: if `normalization` is not a `GroupNormalization` with such an activation, or if
            one of `layers` is not linear, has an activity regularizer or occurs twice.

    Reference:
        The idea, for batch normalization: [Rota Bulò et al., 2018, In-Place Activated
        BatchNorm](https://arxiv.org/abs/1712.02616); with a second pass over the data: [Pleiss et
        al., 2017, Memory-Efficient Implementation of DenseNets](https://arxiv.org/abs/1707.06990).
    """

    def __init__(self, normalization: GroupNormalization, layers: _Layers, **kwargs: Any) -> None:
        _check_normalization(normalization)
        self._is_single = isinstance(layers, keras.layers.Layer)
        readers = _as_readers(layers)
        kwargs.setdefault("dtype", normalization.dtype_policy)
        kwargs.setdefault("autocast", normalization.autocast)
        super().__init__(**kwargs)
        self.normalization = normalization
        self.layers = [layer for reader in readers for layer in reader]
        self._depths = [len(reader) for reader in readers]
        _check_layers(self.layers)
        self.supports_masking = True
        self.supports_jit = all(part.supports_jit for part in self._parts())

    def _parts(self) -> list[keras.layers.Layer]:
        return [self.normalization, *self.layers]

    def _readers(self) -> list[list[keras.layers.Layer]]:
        layers = iter(self.layers)
        return [list(itertools.islice(layers, depth)) for depth in self._depths]

    def _for_each_reader(self, apply: Callable[[Any, keras.layers.Layer], Any], value: Any) -> Any:
        """Applies the layers of each reader to a value, with `value = apply(value, layer)`."""
        results = []
        for reader in self._readers():
            result = value
            for layer in reader:
                result = apply(result, layer)
            results.append(result)
        return results[0] if self._is_single else results

    def build(self, input_shape: Shape) -> None:
        def build(shape: Shape, layer: keras.layers.Layer) -> Shape:
            if not layer.built:
                # Variables get the paths that they have in a plain layer.
                take_place(layer, self)
                layer.build(shape)
            return layer.compute_output_shape(shape)

        self._for_each_reader(build, build(input_shape, self.normalization))

    def call(
        self,
        inputs: KerasTensor,
        residual: KerasTensor | None = None,
        mask: KerasTensor | None = None,
        scale: KerasTensor | None = None,
        shift: KerasTensor | None = None,
    ) -> KerasTensor:
        refuse_tf_keras(self, inputs)
        given = _given(residual=residual, mask=mask, scale=scale, shift=shift)
        if mask is None and get_keras_mask(inputs) is None and self._saves_memory(inputs, given):
            return self._call_recomputed(inputs, given)
        normalized = self.normalization(inputs, **given)
        return self._for_each_reader(lambda x, layer: layer(x), normalized)

    def _saves_memory(self, inputs: KerasTensor, given: dict[str, KerasTensor]) -> bool:
        return (
            on_tensorflow()
            and not fused.uses_stock()
            and record.could_possibly_record()
            and not in_foreign_scope()
            and not any(
                is_rematerialized(part) or part.quantization_mode is not None
                for part in self._parts()
            )
            and not self._has_tangents([inputs, *given.values()])
        )

    def _has_tangents(self, tensors: list[tf.Tensor]) -> bool:
        """Whether forward-mode differentiation is under way, which has no custom gradients."""
        variables = [variable.value for variable in self.trainable_variables]
        handles = [v.handle for v in variables if isinstance(v, tf.Variable)]
        return bool(forwardprop_util.pack_tangents([*tensors, *handles]).tangents)

    def _call_recomputed(self, inputs: KerasTensor, given: dict[str, KerasTensor]) -> Any:
        normalization = self.normalization
        with capture(normalization) as captured:
            operands = captured.operands(normalization(inputs, **given))
        precision = current_precision()

        def read(normalized: tf.Tensor) -> list[tf.Tensor]:
            normalized = cast(normalized, normalization.compute_dtype)
            outputs = self._for_each_reader(lambda x, layer: layer(x), normalized)
            # A tensor of its own for each reader, whose gradient then arrives on its own.
            return [tf.identity(x) if x is normalized else x for x in tf.nest.flatten(outputs)]

        @tf.custom_gradient
        def normalize_and_read(*tensors: tf.Tensor) -> Any:
            operands_ = operands.replaced(tensors)
            with record.stop_recording():
                normalized, *statistics = operands_.normalize()
                outputs = read(normalized)

            def gradient(*d_outputs: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> Any:
                recomputation = Recomputation(after=d_outputs[0])
                with precision, recomputation.active():
                    d_tensors, d_variables = _gradient(
                        operands_, statistics, read, d_outputs, variables
                    )
                return (d_tensors, d_variables) if variables else d_tensors

            return outputs, gradient

        outputs = normalize_and_read(*operands.tensors())
        return outputs[0] if self._is_single else outputs

    def rematerialized_call(
        self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Callable[..., Any]:
        return rematerialized(self, super().rematerialized_call, layer_call, *args, **kwargs)

    def compute_output_shape(self, input_shape: Shape) -> Any:
        shape = self.normalization.compute_output_shape(input_shape)
        return self._for_each_reader(lambda x, layer: layer.compute_output_shape(x), shape)

    def compute_output_spec(
        self,
        inputs: KerasTensor,
        residual: KerasTensor | None = None,
        mask: KerasTensor | None = None,
        scale: KerasTensor | None = None,
        shift: KerasTensor | None = None,
    ) -> KerasTensor:
        given = _given(residual=residual, mask=mask, scale=scale, shift=shift)
        spec = self.normalization.compute_output_spec(inputs, **given)
        outputs = self._for_each_reader(lambda x, layer: layer.compute_output_spec(x), spec)
        # An output of its own for each reader of the normalized tensor itself.
        fresh = [keras.KerasTensor(x.shape, x.dtype) for x in keras.tree.flatten(outputs)]
        return fresh[0] if self._is_single else fresh

    def compute_mask(self, inputs: KerasTensor, previous_mask: KerasTensor | None = None) -> Any:
        def passed_on(mask: KerasTensor | None, layer: keras.layers.Layer) -> KerasTensor | None:
            keeps = mask is not None and layer.supports_masking
            return layer.compute_mask(None, mask) if keeps else None

        return self._for_each_reader(passed_on, previous_mask)

    def get_config(self) -> dict[str, Any]:
        readers = [[_serialized(layer) for layer in reader] for reader in self._readers()]
        return {
            **super().get_config(),
            "normalization": _serialized(self.normalization),
            "layers": readers[0][0] if self._is_single else readers,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> RecomputedNormalization:
        config = dict(config)
        for name in ("normalization", "layers"):
            config[name] = _deserialized(config[name], custom_objects)
        return cls(**config)


def _gradient(
    operands: Operands,
    statistics: Sequence[tf.Tensor],
    read: Callable[[tf.Tensor], list[tf.Tensor]],
    d_outputs: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The gradients of the operands and of the variables that the readers use.

    The gradient of a linear layer with respect to its input needs no input: x stands in for the
    normalized tensor y, of which it has the shape and dtype, until the gradient of the
    normalization has written y. Forward calls serve the tape alone; a graph drops them.
    """
    with tf.GradientTape(persistent=True) as tape:
        stand_in = tf.stop_gradient(operands.x)
        tape.watch(stand_in)
        outputs = read(stand_in)
        with tape.stop_recording():
            dy = tape.gradient(outputs, stand_in, d_outputs)
            d_tensors, y = operands.gradient(dy, *statistics)
        outputs = read(y)
    # Nodes of their own: Grappler computes a kernel's gradient together with anything else that
    # adds up the same node over the positions, which may be on the way to y.
    d_outputs = [tf.ensure_shape(d, d.shape) for d in d_outputs]
    d_variables = tape.gradient(
        outputs, variables, d_outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    dx, *others = d_tensors
    # Before the backward pass goes on, y is used up. XLA, which schedules for concurrency on the
    # CPU, would put off the gradients of all kernels and hold y until then.
    for gradient in d_variables:
        dx = fused.optimization_barrier(dx, gradient)
    return [dx, *others], d_variables


def _given(**arguments: KerasTensor | None) -> dict[str, KerasTensor]:
    """Returns the arguments that are given: the `call` of a subclass may lack the others."""
    return {name: tensor for name, tensor in arguments.items() if tensor is not None}


def _as_readers(layers: Any) -> list[list[keras.layers.Layer]]:
    items = layers if isinstance(layers, (list, tuple)) else [layers]
    return [list(item) if isinstance(item, (list, tuple)) else [item] for item in items]


def _check_normalization(normalization: Any) -> None:
    if not isinstance(normalization, GroupNormalization):
        raise ValueError(
            "`normalization` must be a tensorflow_groupnorm.layers.GroupNormalization. "
            f"Received: normalization={normalization!r}"
        )
    if _activations.fused_name(normalization.activation) is None:
        raise ValueError(
            "The activation of `normalization` must be None, 'relu' or 'silu', which the fused op "
            f"computes. Received: activation={normalization.activation!r} for {normalization.name}"
        )
    if normalization.activity_regularizer is not None:
        raise ValueError(
            "`normalization` must have no activity regularizer, which would keep its output. "
            f"Received: {normalization.activity_regularizer!r} for {normalization.name}"
        )


def _check_layers(layers: Sequence[Any]) -> None:
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                "`layers` must be a layer, or a list of layers and of lists of layers. "
                f"Received: {layer!r} in it"
            )
        reason = why_not_linear(layer)
        if reason is not None:
            raise ValueError(
                "`layers` must be linear in their input, because their gradients are computed "
                f"before the input is. Received: {layer!r}, but {reason}"
            )
    if len({id(layer) for layer in layers}) < len(layers):
        raise ValueError(f"`layers` must hold each layer once. Received: layers={layers!r}")


def _serialized(layer: keras.layers.Layer) -> dict[str, Any]:
    config: dict[str, Any] = keras.saving.serialize_keras_object(layer)
    # The loaded layer is built by the layer that holds it.
    config.pop("build_config", None)
    return config


def _deserialized(config: Any, custom_objects: dict[str, Any] | None) -> Any:
    if isinstance(config, (list, tuple)):
        return [_deserialized(item, custom_objects) for item in config]
    if isinstance(config, keras.layers.Layer):
        return config
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
