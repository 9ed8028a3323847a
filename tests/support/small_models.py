"""A small model with a normalization, for the commands that take a model."""

import keras


def small(size=None, layers=(), batch_size=None, dtype="float32"):
    inputs = keras.Input((size, size, 3), batch_size=batch_size, dtype=dtype, name="images")
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="norm")(x))
    for layer in [keras.layers.Conv2D(8, 3, name="conv2"), *layers]:
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x), name="small")
