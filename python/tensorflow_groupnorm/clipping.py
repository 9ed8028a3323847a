"""Adaptive gradient clipping, for networks without a normalization to hold their gradients."""

import math

import tensorflow as tf


def adaptive_grad_clip(gradients, variables, clipping=0.01, epsilon=1e-3):
    """Scales gradients down that are large for the weights they belong to.

    Each unit's gradient `G` of weights `W` is multiplied by
    `min(1, clipping * max(|W|, epsilon) / |G|)`, with Euclidean norms. A unit is what makes one
    output: all axes but the last of a variable of two axes and more (kernels of Keras' dense and
    convolution layers; a depthwise kernel's units are its multipliers), a whole vector or scalar.

    The authors leave the last layer, the classifier, alone. In `fit`:

        class SGD(keras.optimizers.SGD):
            def apply(self, grads, trainable_variables=None):
                variables = trainable_variables or self._trainable_variables
                super().apply(tfgn.adaptive_grad_clip(grads, variables), trainable_variables)

    Args:
        gradients: list of tensors, `tf.IndexedSlices` or `None`s.
        variables: list of the variables or tensors they are gradients of, in the same order and
            of the same shapes.
        clipping: the largest norm of a gradient relative to that of its weights, > 0. The paper
            takes 0.01 for batches of 4096, more for smaller ones.
        epsilon: the least norm that weights count with, > 0, so that weights of 0 can learn.

    Returns:
        A list of tensors of the dtypes of `gradients`, `None` where the gradient is. Norms and
        products are computed in float32 (float64 for float64).

    Raises:
        ValueError: if the lists have not one length, a gradient has not the shape of its
            variable, or `clipping` or `epsilon` is not a finite number above 0.

    Reference:
        [Brock et al., 2021, High-performance large-scale image recognition without
        normalization](https://arxiv.org/abs/2102.06171), equation 3.
    """
    for name, value in (("clipping", clipping), ("epsilon", epsilon)):
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be a finite number above 0. Received: {name}={value}")
    gradients, variables = list(gradients), list(variables)
    if len(gradients) != len(variables):
        raise ValueError(
            "`gradients` and `variables` must have the same length. "
            f"Received: {len(gradients)} gradients and {len(variables)} variables"
        )
    return [
        None if gradient is None else _clip(i, gradient, variable, clipping, epsilon)
        for i, (gradient, variable) in enumerate(zip(gradients, variables, strict=True))
    ]


def _clip(i, gradient, variable, clipping, epsilon):
    gradient, weights = tf.convert_to_tensor(gradient), tf.convert_to_tensor(variable)
    if not gradient.shape.is_compatible_with(weights.shape):
        raise ValueError(
            "Each of `gradients` must have the shape of its variable. Received: "
            f"gradients[{i}].shape={gradient.shape} for variables[{i}].shape={weights.shape}"
        )
    dtype = tf.float64 if gradient.dtype == tf.float64 else tf.float32
    wide = tf.cast(gradient, dtype)
    rank = weights.shape.rank
    axes = list(range(rank - 1 if rank > 1 else rank))
    limit = clipping * tf.maximum(_norms(tf.cast(weights, dtype), axes), epsilon)
    # A gradient of 0 has the quotient infinity, and is multiplied by 1.
    factor = tf.minimum(tf.ones([], dtype), limit / _norms(wide, axes))
    return tf.cast(wide * factor, gradient.dtype)


def _norms(x, axes):
    return tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims=True))
