"""What a converted model has to compute, from the original and stock ops.

The original computes it: each BatchNormalization that has a counterpart in the converted model
normalizes groups instead, in stock ops, and each standardized kernel is put in place of its
original. Counterparts are found by their weights, which are random and therefore tell the layers
apart; the converter's own account of what became of which layer plays no part.
"""

import contextlib
import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

from . import walk

STANDARDIZED = tuple(
    getattr(tfgn.layers, name) for name in dir(tfgn.layers) if "Standardiz" in name
)


def key(variable):
    """Returns what tells a weight apart: its shape and its value."""
    value = np.asarray(variable)
    return value.shape, value.dtype.str, value.tobytes()


def randomize(model):
    """Gives the weights of a model values that no two layers share and that hide no fault.

    Weights that are all alike, such as ones and zeros, and those that one initializer gave to
    several layers get noise; moving variances are positive.
    """
    generator = np.random.default_rng(17)
    seen = set()
    for variable in walk.variables(model):
        value = np.asarray(variable)
        if value.dtype.kind != "f" or not value.size:
            continue
        if variable.name == "moving_variance":
            value = generator.uniform(0.5, 1.5, value.shape)
        elif variable.name == "moving_mean" or (variable.trainable and np.ptp(value) == 0):
            value = value + 0.1 * generator.standard_normal(value.shape)
        elif variable.trainable and key(variable) in seen:
            value = generator.permutation(value.ravel()).reshape(value.shape)
        else:
            seen.add(key(variable))
            continue
        variable.assign(value)


def is_standardized(layer):
    return isinstance(layer, STANDARDIZED)


def standardized_axes(layer, name):
    """Returns the output channels' axes of a kernel."""
    if name == "depthwise_kernel" or "Depthwise" in type(layer).__name__:
        return (-2, -1)
    return (-2,) if "Transpose" in type(layer).__name__ else (-1,)


class Oracle:
    """The original in the role of the converted model.

    Attributes:
        groups: a dict from the id of a BatchNormalization to the groups and epsilon that it has in
            the converted model.
        kernels: the standardized kernels: a list of the original's variable, its axes and the
            variant's name.
    """

    def __init__(self, original, converted, variant="bit"):
        self.original = original
        self.variant = variant
        originals = walk.layers(original)
        norms = {_affine(layer): layer for layer in originals if _is_batch_norm(layer)}
        owners = {
            key(variable): (layer, variable)
            for layer in originals
            for variable in layer._trainable_variables
        }
        self.groups, self.kernels = {}, []
        for layer in walk.layers(converted):
            if isinstance(layer, keras.layers.GroupNormalization):
                if batch := norms.get(_affine(layer)):
                    self.groups[id(batch)] = (layer.groups, layer.epsilon)
            elif is_standardized(layer):
                self._add_kernels(layer, owners)

    def _add_kernels(self, layer, owners):
        for variable in layer.variables:
            if "kernel" in variable.name and key(variable) in owners:
                owner, kernel = owners[key(variable)]
                axes = standardized_axes(owner, kernel.name)
                if not any(kernel is known for known, _ in self.kernels):
                    self.kernels.append((kernel, axes))

    def standardize(self, kernel, axes):
        return tfgn.stock.standardize_weights(kernel, variant=self.variant, axis=axes)

    @contextlib.contextmanager
    def acting(self):
        """The original computes as the converted model until the block ends."""
        batch_norm = keras.layers.BatchNormalization.call

        def call(layer, inputs, training=None, mask=None):
            if id(layer) not in self.groups:
                return batch_norm(layer, inputs, training=training, mask=mask)
            groups, epsilon = self.groups[id(layer)]
            axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
            affine = [None if w is None else tf.convert_to_tensor(w) for w in _weights(layer)]
            return tfgn.stock.group_norm(inputs, *affine, groups, axis=axis, epsilon=epsilon)

        before = [(kernel, np.array(kernel)) for kernel, _ in self.kernels]
        for kernel, axes in self.kernels:
            kernel.assign(self.standardize(tf.convert_to_tensor(kernel), axes))
        keras.layers.BatchNormalization.call = call
        try:
            yield self.original
        finally:
            keras.layers.BatchNormalization.call = batch_norm
            for kernel, value in before:
                kernel.assign(value)

    def gradients(self, batch):
        """Returns the gradients of `objective`, a dict from `key` of a weight to an array.

        Those of standardized kernels are with respect to the kernel itself.
        """
        trainable = [v for v in walk.variables(self.original) if v.trainable]
        keys = [key(variable) for variable in trainable]
        with self.acting():
            values = gradients(self.original, trainable, batch)
        found = dict(zip(keys, values, strict=True))
        for kernel, axes in self.kernels:
            if (gradient := found.get(key(kernel))) is not None:
                with tf.GradientTape() as tape:
                    w = tf.convert_to_tensor(kernel)
                    tape.watch(w)
                    standardized = self.standardize(w, axes)
                found[key(kernel)] = tape.gradient(standardized, w, output_gradients=gradient)
        return found


def _is_batch_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization)


def _weights(layer):
    return layer.gamma if layer.scale else None, layer.beta if layer.center else None


def _affine(layer):
    weights = [None if weight is None else key(weight) for weight in _weights(layer)]
    return tuple(weights) if any(weights) else layer.name


def flat(outputs):
    """Returns the floating-point tensors of a model's outputs, as float32."""
    tensors = [tf.convert_to_tensor(t) for t in keras.tree.flatten(outputs) if t is not None]
    return [tf.cast(tensor, tf.float32) for tensor in tensors if tensor.dtype.is_floating]


def run(model, batch, training=False):
    return flat(model(batch, training=training))


def objective(outputs):
    """Returns a number that depends on each element of the outputs in its own way."""
    total = 0.0
    for tensor in outputs:
        size = math.prod(tensor.shape)
        weights = tf.reshape(tf.sin(tf.range(size, dtype=tf.float32) * 1.7), tensor.shape)
        total += tf.reduce_mean(tensor * weights)
    return total


def gradients(model, weights, batch):
    with tf.GradientTape() as tape:
        value = objective(run(model, batch))
    # Keras' own variables are no TensorFlow variables.
    found = tape.gradient(value, [weight.value for weight in weights])
    return [None if g is None else tf.convert_to_tensor(g) for g in found]


def difference(expected, actual):
    """Returns the largest difference, relative to the largest magnitude; infinite for NaN."""
    if [t.shape for t in expected] != [t.shape for t in actual]:
        return math.inf
    return max((_difference(*pair) for pair in zip(expected, actual, strict=True)), default=0.0)


def _difference(expected, actual):
    expected, actual = np.float64(expected), np.float64(actual)
    if not np.array_equal(np.isfinite(expected), np.isfinite(actual)):
        return math.inf
    finite = np.isfinite(expected)
    gap = np.abs(expected[finite] - actual[finite]).max(initial=0.0)
    return float(gap / (np.abs(expected[finite]).max(initial=0.0) or 1.0))
