"""Random tensors."""

import tensorflow as tf


def random(rng, shape, dtype="float64", mean=0.0, std=1.0):
    return tf.cast(rng.normal(mean, std, shape), dtype)
