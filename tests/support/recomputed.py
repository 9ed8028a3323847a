"""Pairs of networks: plain layers, and a `RecomputedNormalization` that holds the same layers."""

import keras
import numpy as np
import tensorflow as tf
from kept_tensors import operations_for
from keras import layers as kl
from tensorflow_groupnorm import layers as tl
from tensorflow_groupnorm.layers import RecomputedNormalization
from training_steps import assert_same_steps, by_path, copy_weights

IMAGE, LINE, VOLUME = (8, 8, 4), (8, 4), (4, 4, 4, 4)


def norm(**kwargs):
    return lambda: tl.GroupNormalization(2, name="norm", **kwargs)


def conv(name="conv", **kwargs):
    return kl.Conv2D(6, 3, name=name, **kwargs)


#: What reads the normalized tensor, and the shape of an input.
READERS = {
    "conv1d": (lambda: [[kl.Conv1D(6, 3, name="conv")]], LINE),
    "conv2d": (lambda: [[conv()]], IMAGE),
    "conv2d_strided": (lambda: [[conv(strides=2, padding="same")]], IMAGE),
    "conv2d_dilated": (lambda: [[conv(dilation_rate=2, use_bias=False)]], IMAGE),
    "conv3d": (lambda: [[kl.Conv3D(6, 3, name="conv")]], VOLUME),
    "conv1d_transpose": (lambda: [[kl.Conv1DTranspose(6, 3, name="conv")]], LINE),
    "conv2d_transpose": (lambda: [[kl.Conv2DTranspose(6, 3, strides=2, name="conv")]], IMAGE),
    "conv3d_transpose": (lambda: [[kl.Conv3DTranspose(6, 3, name="conv")]], VOLUME),
    "depthwise": (lambda: [[kl.DepthwiseConv2D(3, name="conv")]], IMAGE),
    "separable": (lambda: [[kl.SeparableConv2D(6, 3, name="conv")]], IMAGE),
    "dense": (lambda: [[kl.Dense(6, name="dense")]], (4,)),
    "dense_of_positions": (lambda: [[kl.Dense(6, name="dense")]], IMAGE),
    "einsum": (lambda: [[kl.EinsumDense("bhwc,cd->bhwd", (8, 8, 6), name="dense")]], IMAGE),
    "standardized": (lambda: [[tl.StandardizedConv2D(6, 3, name="conv")]], IMAGE),
    "standardized_gain": (lambda: [[tl.StandardizedConv2D(6, 3, gain=True, name="conv")]], IMAGE),
    "standardized_1d": (lambda: [[tl.StandardizedConv1D(6, 3, name="conv")]], LINE),
    "standardized_3d": (lambda: [[tl.StandardizedConv3D(6, 3, name="conv")]], VOLUME),
    "standardized_transpose": (
        lambda: [[tl.StandardizedConv2DTranspose(6, 3, name="conv")]],
        IMAGE,
    ),
    "standardized_depthwise": (lambda: [[tl.StandardizedDepthwiseConv2D(3, name="conv")]], IMAGE),
    "standardized_separable": (
        lambda: [[tl.StandardizedSeparableConv2D(6, 3, name="conv")]],
        IMAGE,
    ),
    "standardized_dense": (lambda: [[tl.StandardizedDense(6, name="dense")]], (4,)),
    "wrapped": (
        lambda: [[tl.WeightStandardization(conv(), variant="qiao", name="wrapper")]],
        IMAGE,
    ),
    "padded": (lambda: [[kl.ZeroPadding2D(1), tl.StandardizedConv2D(6, 3, name="conv")]], IMAGE),
    "pooled": (lambda: [[kl.AveragePooling2D(2), kl.Conv2D(6, 1, name="conv")]], IMAGE),
    "flattened": (lambda: [[kl.Flatten(), kl.Dense(3, name="dense")]], IMAGE),
    "upsampled": (lambda: [[kl.UpSampling2D(2), conv()]], IMAGE),
    "two": (lambda: [[tl.StandardizedConv2D(6, 3, name="a")], [conv("b", strides=2)]], IMAGE),
    "itself": (lambda: [[conv()], []], IMAGE),
}


#: What runs in every mode; the other readers run in graphs, and thoroughly in the other modes.
EVERYWHERE = {"conv2d", "separable", "dense", "standardized", "wrapped", "padded", "two", "itself"}


def both(norm, readers, shape=(8, 8, 4), call=(), single=False):
    """Returns a plain and a recomputed model of one norm and its readers, with equal weights.

    Args:
        norm: returns a new norm.
        readers: returns a list of new lists of layers.
        shape: of an image.
        call: names of further inputs: `residual`, `scale` or `shift`.
        single: whether to pass the only reader as a layer.
    """
    models = []
    for recomputed in (False, True):
        x = keras.Input(shape)
        channels = shape[0] if keras.config.image_data_format() == "channels_first" else shape[-1]
        further = {name: keras.Input(shape if name == "residual" else (channels,)) for name in call}
        # A layer before the norm, to see the gradient of its input arrive.
        before = keras.layers.Dense(channels, name="before")(x)
        normalization, layers = norm(), readers()
        if recomputed:
            given = layers[0][0] if single else layers
            outputs = RecomputedNormalization(normalization, given)(before, **further)
        else:
            y = normalization(before, **further)
            outputs = [applied(reader, y) for reader in layers]
        models.append(keras.Model([x, *further.values()], outputs))
    plain, recomputed = models
    perturb(plain)
    copy_weights(plain, recomputed)
    return plain, recomputed


def applied(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def perturb(model):
    """Moves all weights away from their initial values, such as 1 and 0."""
    rng = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(variable + 0.1 * rng.normal(size=variable.shape))


def inputs_of(model, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(batch, *x.shape[1:])).astype(x.dtype) for x in model.inputs]


def assert_same(actual, expected):
    """Compares two results of `training_step` bit by bit, in which all gradients differ from 0."""
    for path, gradient in expected[2].items():
        assert np.any(gradient), path
    assert_same_steps(actual, expected)


def fit(model, jit=False, **optimizer):
    """Trains a model for a few steps and returns its weights by path."""
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, **optimizer), "mse", jit_compile=jit)
    x = inputs_of(model, batch=8)
    y = [np.ones((8, *out.shape[1:]), "float32") for out in model.outputs]
    model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    assert model.jit_compile is jit
    return {name: v.numpy() for name, v in by_path(model.weights).items()}


def gradient_operations(model, inputs):
    """Returns the operations of the graph of a training step that its gradients need."""
    values = [v.value for v in model.trainable_variables]

    @tf.function
    def run(*xs):
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(model(list(xs), training=True))
            loss = sum(tf.reduce_mean(tf.square(y)) for y in outputs)
        return tape.gradient(loss, values)

    return operations_for(run.get_concrete_function(*map(tf.constant, inputs)).graph.outputs)
