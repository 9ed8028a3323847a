"""The tensors that GroupNormalization takes: checks, and conversions of their shapes."""

from __future__ import annotations

import operator
from typing import Any

import keras
import tensorflow as tf

from .._types import KerasTensor, Shape
from ._dtypes import cast


def as_int(value: Any) -> Any:
    """Returns an integer of any type as an int, and anything else unchanged."""
    if isinstance(value, bool):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def check_groups(groups: int | None, group_size: int | None) -> None:
    """Raises ValueError if both are given, or if `group_size` is not a positive int."""
    if group_size is None:
        return
    if type(group_size) is not int or group_size <= 0:
        raise ValueError(
            "`group_size` must be None or a positive integer, the number of channels "
            f"per group. Received: group_size={group_size!r}"
        )
    if groups is not None:
        raise ValueError(
            "Give either `groups` or `group_size`, not both. "
            f"Received: groups={groups}, group_size={group_size}"
        )


def check_axis(axis: Any) -> None:
    """Raises ValueError unless `axis` is one int."""
    if type(axis) is int:
        return
    raise ValueError(
        "`axis` must be an int, the one channel axis; several are not supported: reshape the "
        f"inputs so that one axis has the channels. Received: axis={axis!r}"
    )


def check_input_shape(shape: Any, axis: int) -> None:
    """Raises ValueError for the shapes of several inputs, or if `axis` is not a channel axis."""
    if isinstance(shape, dict) or any(isinstance(size, (list, tuple)) for size in shape):
        raise _several_inputs(f"inputs of the shapes {shape}")
    rank = len(shape)
    if not -rank <= axis < rank or axis % rank == 0:
        raise ValueError(
            "`axis` must be an axis of the inputs other than the batch axis 0. "
            f"Received: axis={axis} for inputs of shape {tuple(shape)}"
        )


def _several_inputs(received: str) -> ValueError:
    return ValueError(
        "GroupNormalization takes one tensor: pass what is to be added as `residual`, "
        f"norm(x, residual=r). Received: {received}"
    )


def check_inputs(inputs: Any) -> None:
    """Raises ValueError unless `inputs` is one dense tensor."""
    if isinstance(inputs, (list, tuple, dict)):
        raise _several_inputs(f"inputs of type {type(inputs).__name__}")
    if _is_ragged(inputs):
        raise ValueError(
            "GroupNormalization takes no ragged tensor: pad it with `inputs.to_tensor()` and pass "
            "a boolean `mask` of the unpadded positions to GroupNormalization(..., use_mask=True)"
        )
    if _is_sparse(inputs):
        raise ValueError(
            "GroupNormalization takes no sparse tensor: make it dense with `tf.sparse.to_dense`"
        )


def _is_ragged(x: Any) -> bool:
    return isinstance(x, tf.RaggedTensor) or getattr(x, "ragged", False)


def _is_sparse(x: Any) -> bool:
    return isinstance(x, tf.SparseTensor) or getattr(x, "sparse", False)


def check_residual(residual: KerasTensor | None, inputs: KerasTensor) -> None:
    """Raises ValueError for a residual that does not broadcast to the inputs."""
    if residual is None:
        return
    if _is_ragged(residual) or _is_sparse(residual):
        raise ValueError(
            "`residual` must be a dense tensor: `to_tensor()` makes a ragged one dense, "
            f"`tf.sparse.to_dense` a sparse one. Received: residual={residual!r}"
        )
    shape = getattr(residual, "shape", ())
    if len(shape) != len(inputs.shape) or not all(
        size in (1, None) or of_inputs in (size, None)
        for size, of_inputs in zip(shape, inputs.shape, strict=True)
    ):
        raise ValueError(
            f"`residual` must have the shape of `inputs`, {tuple(inputs.shape)}, or 1 in place of "
            f"some of its sizes. Received: residual.shape={tuple(shape)}"
        )


def like(inputs: KerasTensor, residual: KerasTensor, dtype: str) -> KerasTensor:
    """Returns the residual in the shape of the inputs and in `dtype`."""
    residual = cast(residual, dtype)
    if any(
        size == 1 and of_inputs != 1
        for size, of_inputs in zip(residual.shape, inputs.shape, strict=True)
    ):
        residual = keras.ops.broadcast_to(residual, keras.ops.shape(inputs))
    return residual


def check_per_channel(
    name: str, tensor: KerasTensor | None, inputs: KerasTensor, axis: int
) -> None:
    """Raises ValueError for a `scale` or `shift` of a shape that is not documented."""
    if tensor is None:
        return
    shape = tuple(getattr(tensor, "shape", ()))
    batch, channels = inputs.shape[0], inputs.shape[axis]
    expected = [(channels,), (batch, channels)]
    if len(inputs.shape) > 2:
        spread = [1] * len(inputs.shape)
        spread[0], spread[axis] = batch, channels
        expected.append(tuple(spread))
    if not any(_fits(shape, other) for other in expected):
        raise ValueError(
            f"`{name}` must have the shape [batch, channels] of `inputs`, "
            f"{', '.join(map(str, expected[1:]))}, or {expected[0]} for all samples. "
            f"Received: {name}.shape={shape}"
        )


def _fits(shape: Shape, expected: Shape) -> bool:
    """Whether the shapes agree; the first of several axes may also be 1."""
    return len(shape) == len(expected) and all(
        size is None or other is None or size == other or (i == 0 and size == 1 and len(shape) > 1)
        for i, (size, other) in enumerate(zip(shape, expected, strict=True))
    )


def per_channel(tensor: KerasTensor, inputs: KerasTensor, axis: int, dtype: str) -> KerasTensor:
    """Returns a `scale` or `shift` as `[batch, channels]` or `[channels]`, in `dtype`."""
    tensor = cast(tensor, dtype)
    if len(tensor.shape) == 1:
        return tensor
    channels = tensor.shape[1 if len(tensor.shape) == 2 else axis]
    channels = inputs.shape[axis] if channels is None else channels
    if tensor.shape[0] == 1:
        return keras.ops.reshape(tensor, [channels])
    return tensor if len(tensor.shape) == 2 else keras.ops.reshape(tensor, [-1, channels])


def check_mask(mask: KerasTensor, inputs: KerasTensor, axis: int) -> None:
    """Raises ValueError for a mask of a shape that does not fit the inputs."""
    shape, of_inputs = tuple(mask.shape), list(inputs.shape)
    sizes = of_inputs
    if len(shape) < len(sizes):
        sizes = [size for i, size in enumerate(sizes) if i != axis % len(sizes)][: len(shape)]
    if (
        not shape
        or len(shape) > len(sizes)
        or not all(
            size in (1, None) or other in (size, None)
            for size, other in zip(shape, sizes, strict=True)
        )
    ):
        raise ValueError(
            "`mask` must have the leading axes of `inputs` without the channel axis, or all axes "
            f"of `inputs`, each with the same size or 1. Received: mask.shape={shape} for inputs "
            f"of shape {tuple(of_inputs)} and axis={axis}"
        )


def spread_mask(mask: KerasTensor, inputs: KerasTensor, axis: int) -> KerasTensor:
    """Returns a mask as a boolean tensor with as many axes as the inputs."""
    check_mask(mask, inputs, axis)
    mask, rank = keras.ops.cast(mask, "bool"), len(inputs.shape)
    if len(mask.shape) < rank:
        sizes = iter(keras.ops.shape(mask))
        shape = [1 if i == axis % rank else next(sizes, 1) for i in range(rank)]
        mask = keras.ops.reshape(mask, shape)
    return mask
