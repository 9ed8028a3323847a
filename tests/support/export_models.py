"""Models of every kind that Keras has, to export."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from keras.src.export.export_utils import get_input_signature

layers = tfgn.layers


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.StandardizedConv2D(8, 3, variant="nfnet", gain=True),
            layers.GroupNormalization(group_size=2, activation="gelu"),
            layers.StandardizedSeparableConv2D(8, 3),
            keras.layers.GlobalMaxPooling2D(),
        ]
    )


def nested_and_shared():
    """A model in a model, called twice, and a wrapped layer that is shared."""
    block = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.WeightStandardization(
                keras.layers.Conv2D(4, 3, padding="same"), "qiao", gain=True
            ),
            layers.GroupNormalization(2, activation="relu"),
        ]
    )
    first, second = keras.Input((8, 8, 4), name="first"), keras.Input((8, 8, 4), name="second")
    dense = layers.WeightStandardization(keras.layers.Dense(3))
    a, b = dense(block(first)), dense(block(second))
    return keras.Model({"first": first, "second": second}, {"sum": a + b, "product": a * b})


class Subclassed(keras.Model):
    """Standardizes a kernel of its own, as well as that of a layer."""

    def __init__(self):
        super().__init__()
        self.conv = layers.StandardizedConv2D(4, 3)
        self.norm = layers.GroupNormalization(2)

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(4, 5), name="kernel")
        super().build(input_shape)

    def call(self, inputs):
        x = self.norm(self.conv(inputs))
        return x, tf.reduce_sum(x @ tfgn.standardize_weights(self.kernel), [1, 2])


def subclassed():
    model = Subclassed()
    model(tf.zeros([1, 8, 8, 3]))
    return model


def channels_first():
    inputs = keras.Input((4, 6, 6))
    x = layers.GroupNormalization(2, axis=1, activation="silu")(inputs)
    x = layers.StandardizedConv2D(8, 3, data_format="channels_first")(x)
    return keras.Model(inputs, layers.GroupNormalization(4, axis=1)(x))


def three_dimensional():
    inputs = keras.Input((4, 4, 4, 2))
    x = layers.StandardizedConv3D(4, 2)(inputs)
    return keras.Model(inputs, layers.GroupNormalization(2, activation="relu")(x))


def without_standardization():
    inputs = keras.Input((None, None, 4))
    return keras.Model(inputs, layers.GroupNormalization(2, activation="relu")(inputs))


def built(build, policy="float32"):
    """A model with random weights and a dtype policy."""
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        model = build()
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(generator.standard_normal(weight.shape))
    return model


def batch(model, size):
    """Random inputs for a model, as a list of positional arguments; unknown sizes are 7."""
    generator = np.random.default_rng(3)

    def random(spec):
        shape = [size, *(7 if known is None else known for known in spec.shape[1:])]
        return tf.constant(generator.standard_normal(shape), spec.dtype)

    return [keras.tree.map_structure(random, spec) for spec in get_input_signature(model)]
