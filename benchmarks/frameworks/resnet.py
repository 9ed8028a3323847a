"""The training step of a ResNet50V2, with any of the normalizations."""

from __future__ import annotations

import keras
import tensorflow as tf
import tensorflow_groupnorm as tfgn

from ..cases import Step

GROUPS = 32
CLASSES = 1000


class _StandardizedConv2D(keras.layers.Conv2D):
    """Weight standardization in stock Keras, as users write it without this package."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, tfgn.stock.standardize_weights(kernel))


def _conv(norm: str, filters: int, size: int, **options):
    layer = {"gn+ws": _StandardizedConv2D, "ours": tfgn.layers.StandardizedConv2D}.get(
        norm, keras.layers.Conv2D
    )
    return layer(filters, size, **options)


def _norm_relu(norm: str, x):
    if norm == "ours":
        return tfgn.layers.GroupNormalization(GROUPS, activation="relu")(x)
    if norm == "bn":
        x = keras.layers.BatchNormalization(epsilon=1.001e-5)(x)
    elif norm != "none":
        x = keras.layers.GroupNormalization(GROUPS)(x)
    return keras.layers.ReLU()(x)


def build(norm: str, side: int) -> keras.Model:
    """The layers of `keras.applications.ResNet50V2`, up to the logits."""
    inputs = keras.Input((side, side, 3))
    x = keras.layers.ZeroPadding2D(3)(inputs)
    x = _conv(norm, 64, 7, strides=2)(x)
    x = keras.layers.ZeroPadding2D(1)(x)
    x = keras.layers.MaxPooling2D(3, strides=2)(x)
    for width, blocks, strides in ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1)):
        for block in range(blocks):
            last = block == blocks - 1
            x = _block(norm, x, width, strides if last else 1, project=block == 0)
    x = keras.layers.GlobalAveragePooling2D()(_norm_relu(norm, x))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


def _block(norm: str, x, width: int, strides: int, project: bool):
    shortcut = keras.layers.MaxPooling2D(1, strides=strides)(x) if strides > 1 else x
    x = _norm_relu(norm, x)
    if project:
        shortcut = _conv(norm, 4 * width, 1, strides=strides)(x)
    x = _norm_relu(norm, _conv(norm, width, 1, use_bias=False)(x))
    x = keras.layers.ZeroPadding2D(1)(x)
    x = _norm_relu(norm, _conv(norm, width, 3, strides=strides, use_bias=False)(x))
    return keras.layers.Add()([shortcut, _conv(norm, 4 * width, 1)(x)])


def training_step(case: Step):
    """Returns the step, which takes the inputs and returns the loss."""
    model = build(case.norm, case.side)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(jit_compile=case.jit)
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return lambda inputs: step(inputs["images"], inputs["labels"]).numpy()
