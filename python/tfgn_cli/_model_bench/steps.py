"""The training step and the inference of a model on random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from .job import RefusedError

#: Of the optimizer of a model that is not compiled. So small that no model diverges.
LEARNING_RATE, MOMENTUM = 1e-3, 0.9


def draw(specs: list[Any]) -> list[Any]:
    """Returns standard normal numbers in the structures of `models.inputs`."""
    return keras.tree.map_structure(
        lambda spec: tf.cast(tf.random.normal(spec.shape), spec.dtype), specs
    )


def optimizer_of(model: keras.Model) -> keras.Optimizer:
    """Returns a new optimizer like the one that the model is compiled with, or SGD with momentum.

    The model loses its own, whose variables may be those of layers that a conversion replaced.
    """
    compiled: keras.Optimizer | None = getattr(model, "optimizer", None)
    if compiled is None:
        return keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM)
    model.optimizer = None
    return type(compiled).from_config(compiled.get_config())


def training_step(model: keras.Model, optimizer: keras.Optimizer, jit: bool) -> Callable[..., Any]:
    """Returns a step on the mean squares of all outputs, plus the model's own losses.

    Raises:
        RefusedError: while it is traced, if no weight gets a gradient.
    """
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function(jit_compile=jit)
    def step(*inputs: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(model(*inputs, training=True))
            squares = [tf.reduce_mean(tf.square(tf.cast(y, tf.float32))) for y in outputs]
            loss = tf.add_n([*squares, *(tf.cast(value, tf.float32) for value in model.losses)])
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, variables)
        if all(gradient is None for gradient in gradients):
            raise RefusedError(f"no output of {model.name} depends on a trainable weight")
        optimizer.apply(gradients, variables)
        return loss

    return step


def inference(model: keras.Model, specs: list[Any], jit: bool) -> Callable[..., Any]:
    """Returns the model in inference mode as a graph.

    Raises:
        RefusedError: if an output has no gradient.
    """

    @tf.function(jit_compile=jit)
    def call(*inputs: Any) -> Any:
        return model(*inputs, training=False)

    for output in keras.tree.flatten(call.get_concrete_function(*specs).structured_outputs):
        dtype = getattr(output, "dtype", None)
        if dtype is None or not dtype.is_floating:
            kind = type(output).__name__ if dtype is None else dtype.name
            raise RefusedError(f"an output of {model.name} is {kind}, which has no gradient")
    return call
