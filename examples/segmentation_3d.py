"""Segments volumes at batch 1 with a 3-D U-Net of standardized Conv3D, GroupNorm and ReLU.

Volumetric segmentation rarely has memory for more than one volume per step. The batch statistics of
BatchNorm then come from a single volume and differ from the moving averages that it uses at
inference. GroupNorm does not depend on the batch. The script generates the volumes: an "organ" that
contains a "lesion", with noise and, as scanners have, a random brightness and contrast per volume.
The choices:

- `group_size=8`: 8 channels per group at every width, as in the U-Net that won BraTS 2018
  (Myronenko, 2018, 3D MRI brain tumor segmentation using autoencoder regularization).
- The normalization includes the ReLU, which saves one read and write of the volume.
- Standardized kernels ("bit") have mean 0 and a fixed scale. Away from the borders, the first one
  removes the brightness of a volume, and GroupNorm removes the contrast.
- epsilon 1e-5, as in the code of the paper. The outputs of standardized kernels are so large that
  it hardly matters. After the plain kernels of `--norm gn`, Keras' default of 1e-3 might.
- `--save-memory` puts each norm whose output only convolutions keep into one layer with them, which
  computes that output again in the backward pass. The results stay the same, and larger volumes
  fit.
- The last convolution has a plain kernel, because the scale of its logits must be free.
- The loss is cross-entropy plus soft Dice (Milletari et al., 2016, V-Net), because lesions are
  small.

For comparison, `--norm gn` and `--norm bn` train the same network with those normalizations.
"""

import argparse
import json
import sys

import keras
import numpy as np
import tensorflow_groupnorm as tfgn

CLASSES = ("background", "organ", "lesion")
NORMS = ("gn+ws", "gn", "bn")
STEPS_PER_EPOCH = 20


def conv_norm_relu(x, filters, norm):
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    if norm == "gn+ws":
        x = tfgn.layers.StandardizedConv3D(filters, 3, **options)(x)
    else:
        x = keras.layers.Conv3D(filters, 3, **options)(x)
    if norm == "bn":
        return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return tfgn.layers.GroupNormalization(group_size=8, epsilon=1e-5, activation="relu")(x)


def build_unet(norm, width):
    """Returns the model from volumes `[N, D, H, W, 1]` to logits `[N, D, H, W, classes]`.

    Depth, height and width may be any multiples of 4.
    """
    volumes = keras.Input((None, None, None, 1))
    x, skips = volumes, []
    for level in range(2):
        x = conv_norm_relu(x, width << level, norm)
        x = conv_norm_relu(x, width << level, norm)
        skips.append(x)
        x = keras.layers.MaxPooling3D()(x)
    x = conv_norm_relu(x, width << 2, norm)
    for level in (1, 0):
        x = keras.layers.UpSampling3D()(x)
        x = keras.layers.Concatenate()([x, skips[level]])
        x = conv_norm_relu(x, width << level, norm)
    return keras.Model(volumes, keras.layers.Conv3D(len(CLASSES), 1)(x))


def make_volume(size, rng):
    """Returns a volume `[size] * 3 + [1]` and its classes, one-hot, `[size] * 3 + [3]`."""
    grid = np.stack(np.mgrid[:size, :size, :size], axis=-1) / size
    center = rng.uniform(0.4, 0.6, 3)
    radii = rng.uniform(0.2, 0.35, 3)
    organ = (((grid - center) / radii) ** 2).sum(-1) < 1
    lesion_center = center + rng.uniform(-0.4, 0.4, 3) * radii
    lesion = organ & (((grid - lesion_center) ** 2).sum(-1) < rng.uniform(0.08, 0.14) ** 2)
    classes = np.where(lesion, 2, organ.astype(int))
    tissue = np.array([0, 1, 2])[classes] + 0.3 * rng.normal(size=classes.shape)
    contrast, brightness = rng.uniform(0.5, 2), rng.uniform(-2, 2)
    volume = contrast * tissue + brightness
    return volume[..., np.newaxis].astype("float32"), np.eye(len(CLASSES), dtype="float32")[classes]


def make_volumes(count, size, rng):
    volumes, classes = zip(*(make_volume(size, rng) for _ in range(count)), strict=True)
    return np.stack(volumes), np.stack(classes)


def cross_entropy_and_dice(classes, logits):
    cross_entropy = keras.losses.categorical_crossentropy(classes, logits, from_logits=True)
    dice = keras.losses.dice(classes, keras.ops.softmax(logits), axis=(1, 2, 3))
    return keras.ops.mean(cross_entropy) + keras.ops.mean(dice)


def dice_scores(model, volumes, classes):
    """Returns the Dice coefficient 2 |A & B| / (|A| + |B|) of each class except background."""
    predicted = np.argmax(model.predict(volumes, batch_size=1, verbose=0), axis=-1)
    expected = np.argmax(classes, axis=-1)
    scores = {}
    for index, name in list(enumerate(CLASSES))[1:]:
        a, b = predicted == index, expected == index
        scores[name] = float(2 * (a & b).sum() / (a.sum() + b.sum()))
    return scores


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--norm", choices=NORMS, default=NORMS[0], help="(default: %(default)s)")
    parser.add_argument(
        "--epochs",
        type=int,
        default=10,
        help=f"epochs of {STEPS_PER_EPOCH} steps with one volume each (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=32,
        help="voxels per side, a multiple of 4 (default: %(default)s)",
    )
    parser.add_argument(
        "--width", type=int, default=16, help="channels, a multiple of 8 (default: %(default)s)"
    )
    parser.add_argument(
        "--save-memory",
        action="store_true",
        help="train with GroupNorm in less memory, with the same results",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error(f"--epochs must be 1 or more; received {args.epochs}")
    if args.size % 4 or args.size < 16:
        parser.error(f"--size must be a multiple of 4, 16 or more; received {args.size}")
    if args.width % 8 or args.width < 8:
        parser.error(f"--width must be a positive multiple of 8; received {args.width}")

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = build_unet(args.norm, args.width)
    if args.save_memory:
        model = tfgn.convert(model, norm=None, weight_standardization=None, save_memory=True)
    model.compile(keras.optimizers.Adam(3e-3), cross_entropy_and_dice)
    held_out = make_volumes(8, args.size, rng)
    before = dice_scores(model, *held_out)
    for epoch in range(args.epochs):
        volumes = make_volumes(STEPS_PER_EPOCH, args.size, rng)
        model.fit(*volumes, batch_size=1, initial_epoch=epoch, epochs=epoch + 1, verbose=2)
    after = dice_scores(model, *held_out)
    for name in after:
        print(
            f"Dice of the {name} in new volumes: {before[name]:.2f} before, {after[name]:.2f} after"
        )
    print(json.dumps({"before": before, "after": after}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
