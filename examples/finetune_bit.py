"""Fine-tunes a Big Transfer (BiT) ResNet from its published checkpoint with 4 images per step.

BiT has GroupNorm and weight standardization instead of BatchNorm, so nothing in it depends on the
batch, and any batch size that fits into memory works. The script takes a folder with one folder of
images per class. Without one it trains on generated images, to test the setup. The choices are
those of the checkpoints and the defaults of `tfgn.models`. With others, the weights load but the
outputs differ:

- 32 groups, epsilon 1e-5; kernels standardized by the variant "bit", epsilon 1e-10.
- Images in [-1, 1].
- A new head of zeros, `load_bit_npz(..., head="zeros")`: the loss starts at log(classes).
- SGD with momentum 0.9 and a learning rate of 0.003 for 512 images per step (Kolesnikov et al.,
  2019, section 3.3), scaled linearly with the batch size, with warm-up. The decay is Keras' cosine,
  where the paper has steps. With few steps, a higher `--learning-rate` works better.
"""

import argparse
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

PUBLISHED = "https://storage.googleapis.com/bit_models/"
SIZES = ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4")
STEPS_PER_EPOCH = 10


def generated_images(size, rng, classes=3, count=64):
    """Returns training and validation data: noisy stripes, whose direction is the class."""
    labels = rng.integers(classes, size=count)
    rows, columns = np.mgrid[:size, :size]
    patterns = np.sin(np.stack([rows, columns, rows + columns]) * 0.5)
    noise = rng.normal(size=(count, size, size, 3))
    images = 127.5 + 80 * patterns[labels, ..., np.newaxis] + 20 * noise
    data = tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels))
    return data.skip(count // 4), data.take(count // 4), classes


def images_in(folder, size, seed):
    """Returns training and validation data (a fifth) from the images of a folder."""
    training, validation = keras.utils.image_dataset_from_directory(
        folder,
        image_size=(size, size),
        crop_to_aspect_ratio=True,
        validation_split=0.2,
        subset="both",
        seed=seed,
        batch_size=None,
        verbose=False,
    )
    return training, validation, len(training.class_names)


def scaled(images):
    return images / 127.5 - 1


def batches(training, validation, batch_size):
    """Returns endless training batches, mirrored at random, and validation batches."""
    flip = keras.layers.RandomFlip("horizontal")
    training = training.cache().shuffle(1000).repeat().batch(batch_size)
    training = training.map(lambda x, y: (scaled(flip(x, training=True)), y))
    validation = validation.batch(batch_size).map(lambda x, y: (scaled(x), y))
    return training.prefetch(2), validation.cache()


def load_model(size, checkpoint, classes):
    build = getattr(tfgn.models, f"BiT_{size}")
    model = build(classes=classes, classifier_activation=None)
    tfgn.models.load_bit_npz(model, checkpoint, head="zeros")
    return model


def optimizer(args):
    rate = args.learning_rate
    if rate is None:
        rate = 0.003 * args.batch_size / 512
    steps = args.epochs * STEPS_PER_EPOCH
    warm_up = min(500, steps // 5)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warm_up, warmup_target=rate, warmup_steps=warm_up
    )
    return keras.optimizers.SGD(schedule, momentum=0.9)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] CHECKPOINT.npz",
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",  # Required: without it, an error says where to get one.
        metavar="CHECKPOINT.npz",
        help=f"a file from {PUBLISHED}, such as BiT-M-R50x1.npz",
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default=SIZES[0],
        help="network of the checkpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with one folder of images per class (default: generated images)",
    )
    parser.add_argument(
        "--image-size", type=int, default=128, help="side in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=4, help="images per step (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=50,
        help=f"epochs of {STEPS_PER_EPOCH} steps (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate", type=float, help="peak learning rate (default: 0.003 * batch size / 512)"
    )
    parser.add_argument("--out", metavar="FILE", help="save the model to this .keras file")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error(f"--epochs must be 1 or more; received {args.epochs}")
    if args.checkpoint is None:
        parser.exit(
            2,
            f"{parser.prog}: Big Transfer's checkpoints are published at {PUBLISHED}; "
            "download one, for example BiT-M-R50x1.npz, and pass its path\n",
        )
    if not Path(args.checkpoint).is_file():
        parser.error(f"there is no file {args.checkpoint}; checkpoints are at {PUBLISHED}")
    if args.data is not None and not Path(args.data).is_dir():
        parser.error(f"there is no folder {args.data}")

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    if args.data is None:
        training, validation, classes = generated_images(args.image_size, rng)
    else:
        training, validation, classes = images_in(args.data, args.image_size, args.seed)
    training, validation = batches(training, validation, args.batch_size)
    model = load_model(args.size, args.checkpoint, classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(args), loss, metrics=["accuracy"])

    history = model.fit(
        training,
        epochs=args.epochs,
        steps_per_epoch=STEPS_PER_EPOCH,
        validation_data=validation,
        shuffle=False,
        verbose=2,
    )
    if args.out:
        model.save(args.out)
    print(json.dumps({name: history.history[name] for name in ("val_loss", "val_accuracy")}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
