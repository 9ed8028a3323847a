"""Segments images at batch 2 with a 2-D U-Net, from the user's own images and masks.

With a few large images per step, BatchNorm normalizes with statistics of those few images, and at
inference with moving averages that fit none of them well. GroupNorm takes the statistics from each
image on its own, and weight standardization (WS) makes up for what it lacks.

`--images` and `--masks` are folders of PNG or JPEG images and PNG masks with the same names
(`17.jpg` and `17.png`). A mask has one channel, whose value is the class of a pixel: 0 and 255, or
0, 1, 2, ... The smallest value is the background. Every fifth image is held out and not trained on.
Without these options the script generates images: cells with a nucleus, whose brightness and
contrast differ from image to image, as a microscope's do. The choices:

- `group_size=8`: 8 channels per group at every width. 32 groups, as in wide networks, would leave
  one channel per group in the first layers of this one.
- The normalization includes the ReLU, which saves one read and write of the image.
- epsilon 1e-5, as in the papers' code; after standardized kernels ("bit") it hardly matters.
- The last convolution has a plain kernel, because the scale of its logits must be free.
- The loss is cross-entropy plus soft Dice (Milletari et al., 2016, V-Net), for small classes.
- `--norm bn` trains the same network with BatchNorm, `--norm gn` without WS. The momentum of the
  moving averages is 0.9 rather than Keras' 0.99, which would take more steps than such a training
  has to forget the initial values.
- `--save-memory` computes outputs of norms again in the backward pass, with the same results.

To convert a U-Net that you have: `tfgn.convert(model)`, see docs/migration.md.
"""

import argparse
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

NORMS = ("gn+ws", "gn", "bn")
SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_CLASSES = 32
GENERATED = 60


def conv_norm_relu(x, filters, norm):
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    if norm == "gn+ws":
        x = tfgn.layers.StandardizedConv2D(filters, 3, **options)(x)
    else:
        x = keras.layers.Conv2D(filters, 3, **options)(x)
    if norm == "bn":
        return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    return tfgn.layers.GroupNormalization(group_size=8, epsilon=1e-5, activation="relu")(x)


def build_unet(norm, width, classes, levels=3):
    """Returns the model from images `[N, H, W, 3]` in [-1, 1] to logits `[N, H, W, classes]`.

    Height and width may be any multiples of `2**levels`.
    """
    images = keras.Input((None, None, 3))
    x, skips = images, []
    for level in range(levels):
        x = conv_norm_relu(x, width << level, norm)
        x = conv_norm_relu(x, width << level, norm)
        skips.append(x)
        x = keras.layers.MaxPooling2D()(x)
    x = conv_norm_relu(x, width << levels, norm)
    for level in reversed(range(levels)):
        x = keras.layers.UpSampling2D(interpolation="bilinear")(x)
        x = keras.layers.Concatenate()([x, skips[level]])
        x = conv_norm_relu(x, width << level, norm)
    return keras.Model(images, keras.layers.Conv2D(classes, 1)(x))


def make_image(size, rng):
    """Returns an image `[size, size, 3]` and its classes `[size, size]`: cells and nuclei."""
    grid = np.stack(np.mgrid[:size, :size], axis=-1) / size
    classes = np.zeros((size, size), int)
    for _ in range(rng.integers(2, 5)):
        center, radii = rng.uniform(0.15, 0.85, 2), rng.uniform(0.08, 0.18, 2)
        nucleus = center + rng.uniform(-0.3, 0.3, 2) * radii
        classes[(((grid - center) / radii) ** 2).sum(-1) < 1] = 1
        classes[((grid - nucleus) ** 2).sum(-1) < rng.uniform(0.03, 0.05) ** 2] = 2
    stain = np.array([[0.0, 0.0, 0.0], [1.0, 0.5, 0.7], [1.5, 1.5, 0.4]])
    tissue = stain[classes] + 0.4 * rng.normal(size=(size, size, 3))
    image = rng.uniform(0.2, 1) * tissue + rng.uniform(-1, 1)
    return image.astype("float32"), classes


def generated(size, rng):
    """Returns images, classes and the values of the classes in masks, as `read` does."""
    images, classes = zip(*(make_image(size, rng) for _ in range(GENERATED)), strict=True)
    return np.stack(images), np.stack(classes), [0, 1, 2]


def files_in(folder):
    return {
        path.stem: path
        for path in sorted(Path(folder).iterdir())
        if path.suffix.lower() in SUFFIXES
    }


def read(images_folder, masks_folder, size):
    """Returns the images that have a mask, their classes, and the values of the classes in masks.

    Raises:
        ValueError: if the files cannot be used. The message is for the user.
    """
    images, masks = files_in(images_folder), files_in(masks_folder)
    names = sorted(images.keys() & masks.keys())
    if len(names) < 5:
        raise ValueError(
            f"{len(names)} of {len(images)} images have a mask of the same name; 5 are needed"
        )
    pixels, values = [], []
    for name in names:
        image = decoded(images[name], 3)
        mask = decoded(masks[name], 0)
        if mask.shape[-1] != 1:
            raise ValueError(
                f"{masks[name]} has {mask.shape[-1]} channels; a mask has one, with class numbers"
            )
        if image.shape[:2] != mask.shape[:2]:
            raise ValueError(f"{images[name]} and {masks[name]} differ in size")
        pixels.append(tf.image.resize(image, (size, size), antialias=True) / 127.5 - 1)
        values.append(tf.image.resize(mask, (size, size), method="nearest")[..., 0])
    known, classes = np.unique(np.stack(values), return_inverse=True)
    if not 2 <= len(known) <= MOST_CLASSES:
        raise ValueError(
            f"the masks have {len(known)} different values; 2 to {MOST_CLASSES} are expected, one "
            "for each class"
        )
    return np.stack(pixels), classes.reshape(-1, size, size), known.tolist()


def decoded(path, channels):
    try:
        return tf.io.decode_image(path.read_bytes(), channels, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{path} is not an image that TensorFlow reads") from error


def cross_entropy_and_dice(classes, logits):
    cross_entropy = keras.losses.categorical_crossentropy(classes, logits, from_logits=True)
    dice = keras.losses.dice(classes, keras.ops.softmax(logits), axis=(1, 2))
    return keras.ops.mean(cross_entropy) + keras.ops.mean(dice)


def dice_scores(model, images, classes, values):
    """Returns the Dice coefficient 2 |A & B| / (|A| + |B|) by class, without the background."""
    predicted = np.argmax(model.predict(images, batch_size=1, verbose=0), axis=-1)
    scores = {}
    for index, value in list(enumerate(values))[1:]:
        a, b = predicted == index, classes == index
        scores[str(value)] = float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
    return scores


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", metavar="DIR", help="folder of images (default: generated)")
    parser.add_argument("--masks", metavar="DIR", help="folder of masks, one for each image")
    parser.add_argument("--norm", choices=NORMS, default=NORMS[0], help="(default: %(default)s)")
    for name, default, text in (
        ("--batch-size", 2, "images per step"),
        ("--epochs", 10, "times that every image is trained on"),
        ("--size", 64, "pixels per side that images are resized to, a multiple of 8"),
        ("--width", 16, "channels of the first layer, a multiple of 8"),
        ("--seed", 0, "random seed"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} (default: {default})")
    parser.add_argument(
        "--save-memory",
        action="store_true",
        help="train with GroupNorm in less memory, with the same results",
    )
    parser.add_argument("--out", metavar="FILE", help="save the model to this .keras file")
    args = parser.parse_args()
    for name in ("batch_size", "epochs"):
        if getattr(args, name) < 1:
            option = name.replace("_", "-")
            parser.error(f"--{option} must be 1 or more; received {getattr(args, name)}")
    for name, least in (("size", 16), ("width", 8)):
        value = getattr(args, name)
        if value % 8 or value < least:
            parser.error(f"--{name} must be a multiple of 8, {least} or more; received {value}")
    if (args.images is None) != (args.masks is None):
        parser.error("--images and --masks are given together")
    for folder in filter(None, (args.images, args.masks)):
        if not Path(folder).is_dir():
            parser.error(f"there is no folder {folder}")
    return args, parser


def main():
    args, parser = arguments()
    keras.utils.set_random_seed(args.seed)
    try:
        if args.images is None:
            images, classes, values = generated(args.size, np.random.default_rng(args.seed))
        else:
            images, classes, values = read(args.images, args.masks, args.size)
    except ValueError as error:
        parser.error(str(error))
    model = build_unet(args.norm, args.width, len(values))
    if args.save_memory:
        model = tfgn.convert(model, norm=None, weight_standardization=None, save_memory=True)
    model.compile(keras.optimizers.Adam(1e-3), cross_entropy_and_dice)

    held_out = np.arange(len(images)) % 5 == 0
    one_hot = np.eye(len(values), dtype="float32")[classes[~held_out]]
    before = dice_scores(model, images[held_out], classes[held_out], values)
    model.fit(images[~held_out], one_hot, batch_size=args.batch_size, epochs=args.epochs, verbose=2)
    after = dice_scores(model, images[held_out], classes[held_out], values)
    print(f"Dice in {held_out.sum()} images that were not trained on:")
    for value in after:
        print(f"  class {value}: {before[value]:.2f} before, {after[value]:.2f} after")
    if args.out:
        model.save(args.out)
    print(json.dumps({"before": before, "after": after}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
