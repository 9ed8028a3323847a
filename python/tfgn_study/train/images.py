"""The images of a run, in the order and with the changes that its seed gives."""

from __future__ import annotations

import tensorflow as tf

from ..config import RunConfig

#: Images are shifted by up to this part of their side, as in 4 of CIFAR's 32 pixels
#: (arXiv 1512.03385, section 4.2).
LARGEST_SHIFT = 1 / 8


def training_set(x, y, config: RunConfig) -> tf.data.Dataset:
    """Returns the batches of one epoch; each iteration shuffles and augments anew.

    Args:
        x: uint8 `[N, side, side, channels]`.
        y: int64 `[N]`.
        config: its `seed`, `batch_size` and `augment`.

    Returns:
        Pairs of images and labels. The last, smaller batch is dropped: it would be normalized over
        another batch size.
    """
    images = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=config.seed)
    if config.augment:
        seeds = tf.data.Dataset.random(config.seed, rerandomize_each_iteration=True).batch(2)
        images = tf.data.Dataset.zip((images, seeds)).map(
            _augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
    return images.batch(config.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _augment(example, seed):
    """Flips and shifts an image; what comes into view mirrors the border."""
    image, label = example
    shape = image.shape
    image = tf.image.stateless_random_flip_left_right(image, seed)
    margin = max(1, int(shape[0] * LARGEST_SHIFT))
    image = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]], "REFLECT")
    return tf.image.stateless_random_crop(image, shape, seed + 1), label
