"""Trains a network with GroupNorm and weight standardization on one or several machines.

On one machine, run `python multi_worker.py`. On several, start it on each with TF_CONFIG, which
lists the workers and this worker's index. docs/distribution.md has an example.
"""

import argparse
import json
import os

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

CLASSES = 3


def build_model():
    inputs = keras.Input((16, 16, 3))
    x = tfgn.layers.StandardizedConv2D(16, 3, padding="same", use_bias=False)(inputs)
    x = tfgn.layers.GroupNormalization(4, activation="relu")(x)
    x = tfgn.layers.StandardizedConv2D(16, 3, strides=2, use_bias=False)(x)
    x = tfgn.layers.GroupNormalization(4, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


def load_images():
    """Returns noisy images of stripes, and their classes: the direction of the stripes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=96)
    rows, columns = np.mgrid[:16, :16]
    patterns = np.sin(np.stack([rows, columns, rows + columns]) * 1.5)
    images = patterns[labels, ..., np.newaxis] + 0.3 * rng.normal(size=(96, 16, 16, 3))
    return images.astype("float32"), labels


class Training:
    """A custom training loop, because Keras' `fit` fails under MultiWorkerMirroredStrategy.

    Args:
        strategy: a `tf.distribute.Strategy`.
        batch_size: images per step of all replicas together.
    """

    def __init__(self, strategy, batch_size):
        self.strategy = strategy
        self.batch_size = batch_size
        keras.utils.set_random_seed(0)  # The same initial weights on every worker.
        with strategy.scope():
            self.model = build_model()
            self.optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
            self.optimizer.build(self.model.trainable_variables)

    def loss_and_gradients(self, images, labels):
        """Returns this replica's share of the loss of the batch, and its gradients."""
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            # Divides by the global batch size, because the losses of the replicas are summed.
            loss = tf.reduce_sum(losses) / self.batch_size
        return loss, tape.gradient(loss, self.model.trainable_variables)

    def replica_step(self, images, labels):
        loss, gradients = self.loss_and_gradients(images, labels)
        # Sums the gradients of all replicas, the only communication between workers.
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return loss

    @tf.function
    def step(self, images, labels):
        losses = self.strategy.run(self.replica_step, (images, labels))
        return self.strategy.reduce("SUM", losses, axis=None)

    def run(self, epochs):
        """Returns the mean loss of each epoch."""
        data = tf.data.Dataset.from_tensor_slices(load_images())
        data = data.batch(self.batch_size, drop_remainder=True)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        data = self.strategy.experimental_distribute_dataset(data.with_options(options))
        return [
            float(np.mean([self.step(images, labels) for images, labels in data]))
            for _ in range(epochs)
        ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        help="images per step of all workers together (default: %(default)s)",
    )
    args = parser.parse_args()
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        strategy = tf.distribute.get_strategy()
    losses = Training(strategy, args.batch_size).run(args.epochs)
    print(json.dumps({"replicas": strategy.num_replicas_in_sync, "losses": losses}))


if __name__ == "__main__":
    main()
