"""Segments volumes at batch 1 with a 3-D U-Net of standardized Conv3D, GroupNorm and ReLU.

Volumetric segmentation rarely has memory for more than one volume per step. The batch statistics of
BatchNorm then come from a single volume and differ from the moving averages that it uses at
inference. GroupNorm does not depend on the batch.

`--data` is a folder of `.npz` files, one for each volume: `volume`, an array `[D, H, W]` or
`[D, H, W, channels]`, and `classes`, whole numbers `[D, H, W]` from 0, the background. All sizes
are multiples of 4. Every fifth file is held out and not trained on. With nibabel, for example:

    np.savez("case17.npz", volume=nib.load("ct.nii.gz").get_fdata(np.float32),
             classes=nib.load("label.nii.gz").get_fdata().astype(np.uint8))

Without `--data` the script generates volumes: an "organ" (class 1) that contains a "lesion" (2),
with noise and, as scanners have, a random brightness and contrast per volume. The choices:

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

For comparison, `--norm gn` and `--norm bn` train the same network with those normalizations. The
momentum of BatchNorm's moving averages is 0.9 rather than Keras' 0.99, which would take more steps
than this training has to forget the initial values.
"""

import argparse
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow_groupnorm as tfgn

GENERATED_CLASSES = 3  # Background, organ and lesion.
HELD_OUT = 8
NORMS = ("gn+ws", "gn", "bn")
STEPS_PER_EPOCH = 20


def conv_norm_relu(x, filters, norm):
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    if norm == "gn+ws":
        x = tfgn.layers.StandardizedConv3D(filters, 3, **options)(x)
    else:
        x = keras.layers.Conv3D(filters, 3, **options)(x)
    if norm == "bn":
        return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    return tfgn.layers.GroupNormalization(group_size=8, epsilon=1e-5, activation="relu")(x)


def build_unet(norm, width, channels, classes):
    """Returns the model from volumes `[N, D, H, W, channels]` to logits `[N, D, H, W, classes]`.

    Depth, height and width may be any multiples of 4.
    """
    volumes = keras.Input((None, None, None, channels))
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
    return keras.Model(volumes, keras.layers.Conv3D(classes, 1)(x))


def make_volume(size, rng):
    """Returns a volume `[size, size, size, 1]` and its classes `[size, size, size]`."""
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
    return volume[..., np.newaxis].astype("float32"), classes


def read_volume(path):
    """Returns the volume `[D, H, W, channels]` of a file, with mean 0 and deviation 1, and classes.

    Raises:
        ValueError: if the file cannot be used. The message is for the user.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            volume, classes = arrays["volume"].astype("float32"), arrays["classes"].astype(int)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no .npz file with `volume` and `classes`: {error}") from error
    volume = volume[..., np.newaxis] if volume.ndim == 3 else volume
    if volume.ndim != 4 or classes.shape != volume.shape[:3]:
        shapes = f"{volume.shape} and {classes.shape}"
        raise ValueError(f"`volume` and `classes` of {path} have the shapes {shapes}")
    if any(size % 4 for size in classes.shape) or classes.min() < 0:
        raise ValueError(f"{path}: sizes must be multiples of 4, and classes start at 0")
    return (volume - volume.mean()) / (volume.std() + 1e-6), classes


def volumes_of(args, rng):
    """Returns a list of held-out volumes, a function that draws others, and how many classes are.

    Each volume comes with its classes.
    """
    if args.data is None:
        held_out = [make_volume(args.size, rng) for _ in range(HELD_OUT)]
        return held_out, lambda: make_volume(args.size, rng), GENERATED_CLASSES
    volumes = [read_volume(path) for path in sorted(Path(args.data).glob("*.npz"))]
    if len(volumes) < 2:
        raise ValueError(f"two .npz files at least are needed; {args.data} has {len(volumes)}")
    if len({volume.shape[-1] for volume, _ in volumes}) > 1:
        raise ValueError(f"the volumes in {args.data} have different numbers of channels")
    training = [volume for i, volume in enumerate(volumes) if i % 5]
    classes = 1 + max(int(labels.max()) for _, labels in volumes)
    return volumes[::5], lambda: training[rng.integers(len(training))], classes


def endless(draw, classes):
    """Yields batches of one volume and its classes, one-hot."""
    while True:
        volume, labels = draw()
        yield volume[np.newaxis], np.eye(classes, dtype="float32")[labels[np.newaxis]]


def cross_entropy_and_dice(classes, logits):
    cross_entropy = keras.losses.categorical_crossentropy(classes, logits, from_logits=True)
    dice = keras.losses.dice(classes, keras.ops.softmax(logits), axis=(1, 2, 3))
    return keras.ops.mean(cross_entropy) + keras.ops.mean(dice)


def dice_scores(model, volumes, classes):
    """Returns the Dice coefficient 2 |A & B| / (|A| + |B|) by class, without the background."""
    sums = np.zeros((2, classes - 1))
    for volume, expected in volumes:
        predicted = np.argmax(model.predict(volume[np.newaxis], verbose=0)[0], axis=-1)
        for index in range(1, classes):
            a, b = predicted == index, expected == index
            sums[:, index - 1] += 2 * (a & b).sum(), a.sum() + b.sum()
    return {str(i + 1): float(a / max(1, b)) for i, (a, b) in enumerate(sums.T)}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="DIR", help="folder of .npz files (default: generated)")
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
        help="voxels per side of generated volumes, a multiple of 4 (default: %(default)s)",
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
    if args.data is not None and not Path(args.data).is_dir():
        parser.error(f"there is no folder {args.data}")
    return args, parser


def main():
    args, parser = arguments()
    keras.utils.set_random_seed(args.seed)
    try:
        held_out, draw, classes = volumes_of(args, np.random.default_rng(args.seed))
    except ValueError as error:
        parser.error(str(error))
    model = build_unet(args.norm, args.width, held_out[0][0].shape[-1], classes)
    if args.save_memory:
        model = tfgn.convert(model, norm=None, weight_standardization=None, save_memory=True)
    model.compile(keras.optimizers.Adam(3e-3), cross_entropy_and_dice)
    before = dice_scores(model, held_out, classes)
    model.fit(
        endless(draw, classes), steps_per_epoch=STEPS_PER_EPOCH, epochs=args.epochs, verbose=2
    )
    after = dice_scores(model, held_out, classes)
    print(f"Dice in {len(held_out)} volumes that were not trained on:")
    for name in after:
        print(f"  class {name}: {before[name]:.2f} before, {after[name]:.2f} after")
    print(json.dumps({"before": before, "after": after}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
