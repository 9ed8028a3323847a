"""A small ResNet of the layers here, and a task for it."""

import keras
import numpy as np
import tensorflow_groupnorm as tfgn

_rng = np.random.default_rng(0)
IMAGES = _rng.standard_normal((16, 8, 8, 3)).astype("float32")
LABELS = _rng.integers(0, 4, 16)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(seed=1):
    """Two norms, one with a residual, and two standardized convolutions, one with a gain."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(IMAGES.shape[1:])
    x = tfgn.layers.StandardizedConv2D(8, 3, padding="same", gain=True)(inputs)
    x = shortcut = tfgn.layers.GroupNormalization(2, activation="relu")(x)
    x = tfgn.layers.StandardizedDepthwiseConv2D(3, padding="same")(x)
    x = tfgn.layers.GroupNormalization(2, activation="silu")(x, residual=shortcut)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(4, dtype="float32")(x))
