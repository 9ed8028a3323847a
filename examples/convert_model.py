"""Converts a model from BatchNorm to GroupNorm and weight standardization: by one call and by hand.

The script trains a small residual network of stock Keras layers at batch 16. It then builds the
same network with GroupNorm and standardized kernels in two ways: with `tfgn.convert`, and by
replacing the layers in the code. Both have the same outputs. The conversion costs accuracy, and
fine-tuning at batch 2 restores it. Finally, the script converts a model of `keras.applications`,
and saves it if `--out` is given. The choices:

- Groups of 8 channels: networks for phones have layers of 16 or 24 channels. The usual 32 groups
  would leave one channel per group, the worst choice in the paper (Wu & He, 2018). By default,
  `tfgn.convert` takes 32 groups only where they have at least 8 channels each.
- `weight_standardization="bit"`: the variant of Big Transfer, which is the most common. At large
  batches GroupNorm alone is less accurate than BatchNorm; with standardized kernels it is not.
- epsilon: the value of each BatchNorm is kept.

Fine-tune a converted model: the weights carry over but the moving statistics do not, and
standardized kernels have a different scale. See docs/migration.md.
"""

import argparse
import json
import sys

import keras
import numpy as np
import tensorflow_groupnorm as tfgn

CLASSES = 3
APPLICATIONS = sorted(
    name
    for name, build in vars(keras.applications).items()
    if name[0].isupper() and callable(build)
)


def as_found():
    """Returns a network of stock Keras layers."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm1")(x)
    shortcut = x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv2")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm2")(x)
    x = keras.layers.Add()([x, shortcut])
    x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x), name="as_found")


def by_hand():
    """Returns the same network with this package's layers, ReLU and addition in the norms."""
    inputs = keras.Input((32, 32, 3))
    x = tfgn.layers.StandardizedConv2D(16, 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = tfgn.layers.GroupNormalization(group_size=8, epsilon=1e-3, activation="relu", name="norm1")(
        x
    )
    shortcut = x
    x = tfgn.layers.StandardizedConv2D(16, 3, padding="same", use_bias=False, name="conv2")(x)
    x = tfgn.layers.GroupNormalization(group_size=8, epsilon=1e-3, activation="relu", name="norm2")(
        x, residual=shortcut
    )
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x), name="by_hand")


def copy_weights(old, new):
    """Copies the variables of layers by name: all but BatchNorm's moving statistics."""
    for layer in new.layers:
        for variable in layer.weights:
            variable.assign(getattr(old.get_layer(layer.name), variable.name))


def striped_images(count, rng):
    """Returns noisy images of stripes, and their classes: the direction of the stripes."""
    labels = rng.integers(CLASSES, size=count)
    rows, columns = np.mgrid[:32, :32]
    patterns = np.sin(np.stack([rows, columns, rows + columns]) * 0.8)
    noise = rng.normal(size=(count, 32, 32, 3))
    return (0.3 * patterns[labels, ..., np.newaxis] + noise).astype("float32"), labels


def convert_small_network(epochs, rng):
    """Returns the difference between the two ways, and accuracies on new images."""
    images, labels = striped_images(320, rng)
    held_out = striped_images(200, rng)
    original = as_found()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    original.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    original.fit(images, labels, batch_size=16, epochs=epochs, verbose=2)

    converted = tfgn.convert(original)  # Compiled like the original.
    written = by_hand()
    copy_weights(original, written)
    difference = np.abs(np.array(converted(images)) - written(images)).max()

    def accuracy(model):
        return model.evaluate(*held_out, verbose=0)[1]

    before, at_first = accuracy(original), accuracy(converted)
    converted.fit(images, labels, batch_size=2, epochs=epochs, verbose=2)
    return {
        "difference": float(difference),
        "original": before,
        "converted": at_first,
        "fine_tuned": accuracy(converted),
    }


def convert_application(name, weights):
    """Returns a converted model of `keras.applications`."""
    return tfgn.convert(getattr(keras.applications, name)(weights=weights))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--application",
        choices=APPLICATIONS,
        default="MobileNetV2",
        metavar="NAME",
        help="model of keras.applications to convert (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="'imagenet', which Keras downloads, or a file of weights (default: random weights)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="save the converted model to this .keras file"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=5,
        help="epochs of 320 images, before and after the conversion (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error(f"--epochs must be 1 or more; received {args.epochs}")

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    results = convert_small_network(args.epochs, rng)
    print(f"""
largest difference between the converted and the hand-written model: {results["difference"]:.1e}
accuracy with BatchNorm:                  {results["original"]:.2f}
accuracy converted, before fine-tuning:   {results["converted"]:.2f}
accuracy converted, fine-tuned:           {results["fine_tuned"]:.2f}
""")
    model = convert_application(args.application, args.weights)
    if args.out:
        model.save(args.out)
    print(json.dumps(results))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
