"""Trains a diffusion U-Net whose GroupNorms are scaled and shifted by the noise level.

The script trains a small U-Net to predict the noise in generated images of discs, then draws new
images from pure noise. Every block of a diffusion U-Net has this chain, called adaptive GroupNorm
(Dhariwal & Nichol, 2021, Diffusion models beat GANs on image synthesis):

    silu(GroupNorm(x) * (1 + scale) + shift)        scale, shift: [images, channels]

`GroupNormalization` takes `scale` and `shift` per image and applies SiLU, in one kernel that reads
and writes the feature map once. The choices:

- 8 groups, which are 4 or 8 channels in layers this narrow. Published models use 32 groups with 128
  or more channels.
- epsilon 1e-5, as in published models. With Keras' default of 1e-3 their weights load, but the
  outputs differ.
- No weight standardization: the last convolution of a block starts at zero, so that the block is
  the identity at first. A standardized kernel cannot be zero, because it has no scale.
- `--save-memory` puts each norm and the convolution behind it into one layer, which computes the
  output of the norm again in the backward pass instead of keeping it. The results stay the same.
- The model predicts the noise in x cos(a) + noise sin(a), with a = t pi / 2. This is the cosine
  schedule of Nichol & Dhariwal (2021) without its offset. Predicting 0 has the error 1.
"""

import argparse
import itertools
import json
import math
import sys

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

SIZE = 16
GROUPS = 8
EPSILON = 1e-5
STEPS_PER_EPOCH = 20


def norm_silu(x, **scale_and_shift):
    norm = tfgn.layers.GroupNormalization(GROUPS, epsilon=EPSILON, activation="silu")
    return norm(x, **scale_and_shift)


def scale_and_shift(embedding, channels):
    # Starts at zero, as a plain GroupNorm.
    both = keras.layers.Dense(2 * channels, kernel_initializer="zeros")(embedding)
    return {"scale": both[:, :channels], "shift": both[:, channels:]}


def conv(x, filters, **options):
    return keras.layers.Conv2D(filters, 3, padding="same", **options)(x)


def residual_block(x, embedding, filters):
    shortcut = x if x.shape[-1] == filters else keras.layers.Conv2D(filters, 1)(x)
    x = conv(norm_silu(x), filters)
    x = norm_silu(x, **scale_and_shift(embedding, filters))
    x = conv(x, filters, kernel_initializer="zeros")
    return keras.layers.Add()([x, shortcut])


def embed(time, width=32):
    """Returns an MLP of the times' sines and cosines, as for positions in a transformer."""
    angles = time * np.geomspace(1, 100, width, dtype="float32")
    x = keras.ops.concatenate([keras.ops.sin(angles), keras.ops.cos(angles)], axis=-1)
    x = keras.layers.Dense(4 * width, activation="silu")(x)
    return keras.layers.Dense(4 * width, activation="silu")(x)


def build_unet(width=32):
    """Returns the model from images `[N, 16, 16, 1]` and times `[N, 1]` in (0, 1) to the noise."""
    images, time = keras.Input((SIZE, SIZE, 1)), keras.Input((1,))
    embedding = embed(time)
    x = skip = residual_block(conv(images, width), embedding, width)
    x = conv(x, 2 * width, strides=2)
    x = residual_block(x, embedding, 2 * width)
    x = residual_block(x, embedding, 2 * width)
    x = keras.layers.UpSampling2D()(x)
    x = residual_block(keras.layers.Concatenate()([x, skip]), embedding, width)
    return keras.Model([images, time], conv(norm_silu(x), 1, kernel_initializer="zeros"))


def draw_discs(count, rng):
    """Returns images `[count, 16, 16, 1]` in [-1, 1], each with a bright disc at random."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    y, x = rng.uniform(5, SIZE - 5, (2, count, 1, 1))
    radius = rng.uniform(2, 5, (count, 1, 1))
    inside = radius - np.hypot(rows - y, columns - x)
    return np.clip(2 * inside, -1, 1).astype("float32")[..., np.newaxis]


def add_noise(images, time):
    """Returns the inputs of the model and the noise that it has to predict."""
    noise = tf.random.normal(tf.shape(images))
    angle = time[:, :, tf.newaxis, tf.newaxis] * (math.pi / 2)
    return (images * tf.cos(angle) + noise * tf.sin(angle), time), noise


def training_data(batch_size, rng):
    data = tf.data.Dataset.from_tensor_slices(draw_discs(4096, rng))
    data = data.shuffle(4096).repeat().batch(batch_size, drop_remainder=True)
    return data.map(lambda images: add_noise(images, tf.random.uniform([batch_size, 1])))


def errors_by_time(model, rng):
    """Returns the mean squared error of the predicted noise on new images, by time."""
    images = draw_discs(64, rng)
    errors = {}
    for time in (0.1, 0.3, 0.5, 0.7, 0.9):
        inputs, noise = add_noise(images, tf.fill([len(images), 1], time))
        errors[time] = float(tf.reduce_mean((model(inputs, training=False) - noise) ** 2))
    return errors


def sample(model, count, steps=25):
    """Returns images drawn from noise by DDIM (Song et al., 2020)."""
    x = tf.random.normal([count, SIZE, SIZE, 1])
    times = np.linspace(0.98, 0, steps + 1, dtype="float32")
    predict = tf.function(lambda x, time: model([x, time], training=False))
    for now, after in itertools.pairwise(times):
        noise = predict(x, tf.fill([count, 1], now))
        a, b = now * math.pi / 2, after * math.pi / 2
        image = tf.clip_by_value((x - math.sin(a) * noise) / math.cos(a), -1, 1)
        noise = (x - math.cos(a) * image) / math.sin(a)
        x = math.cos(b) * image + math.sin(b) * noise
    return x


def write_png(images, path):
    """Writes the images side by side."""
    row = tf.concat(tf.unstack(images), axis=1)
    pixels = tf.cast(tf.clip_by_value((row + 1) * 127.5, 0, 255), tf.uint8)
    tf.io.write_file(path, tf.io.encode_png(pixels))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=30,
        help=f"epochs of {STEPS_PER_EPOCH} steps (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="images per step (default: %(default)s)"
    )
    parser.add_argument(
        "--samples", default="samples.png", metavar="PNG", help="output file (default: %(default)s)"
    )
    parser.add_argument(
        "--save-memory", action="store_true", help="train in less memory, with the same results"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error(f"--epochs must be 1 or more; received {args.epochs}")

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = build_unet()
    if args.save_memory:
        model = tfgn.convert(model, norm=None, weight_standardization=None, save_memory=True)
    model.compile(keras.optimizers.Adam(2e-3), "mean_squared_error")
    data = training_data(args.batch_size, rng)
    model.fit(data, epochs=args.epochs, steps_per_epoch=STEPS_PER_EPOCH, shuffle=False, verbose=2)

    errors = errors_by_time(model, rng)
    write_png(sample(model, 8), args.samples)
    for time, error in errors.items():
        print(f"time {time}: mean squared error of the predicted noise {error:.3f}")
    print(f"samples are in {args.samples}")
    print(json.dumps({"errors": list(errors.values())}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
