"""The training images of a run, shuffled and augmented by its seed."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ..config import RunConfig

#: Images are shifted by up to this fraction of their side: 4 of the 32 pixels of CIFAR
#: (arXiv 1512.03385, section 4.2).
LARGEST_SHIFT = 1 / 8


def training_set(x: np.ndarray, y: np.ndarray, config: RunConfig) -> tf.data.Dataset:
    """Returns the batches of one epoch; each iteration shuffles and augments anew.

    Args:
        x: uint8 `[N, side, side, channels]`.
        y: classes, int64 `[N]`, or masks, uint8 `[N, side, side]`.
        config: the run; its `seed`, `batch_size` and `augment` count.

    Returns:
        Pairs of images and labels. A mask is augmented as its image. A last, smaller batch is
        dropped, as BatchNorm would normalize it over fewer images.
    """
    images = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=config.seed)
    if config.augment:
        seeds = tf.data.Dataset.random(config.seed, rerandomize_each_iteration=True).batch(2)
        images = tf.data.Dataset.zip((images, seeds)).map(
            _augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
    return images.batch(config.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _augment(example: tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Flips and shifts an image, which is continued by its mirror image, and its mask."""
    image, label = example
    if label.shape.rank == 0:
        return _moved(image, seed), label
    both = _moved(tf.concat([image, label[..., tf.newaxis]], axis=-1), seed)
    return both[..., :-1], both[..., -1]


def _moved(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    shape = image.shape
    image = tf.image.stateless_random_flip_left_right(image, seed)
    margin = max(1, int(shape[0] * LARGEST_SHIFT))
    image = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]], "REFLECT")
    return tf.image.stateless_random_crop(image, shape, seed + 1)
