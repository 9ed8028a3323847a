"""Trains a classifier with differential privacy (DP-SGD) and states its privacy budget.

DP-SGD (Abadi et al., 2016, Deep learning with differential privacy) clips the gradient of every
image, adds them up and adds noise. Batch normalization cannot be used: it mixes the images of
a batch, so that no gradient belongs to one image. GroupNorm and weight standardization, which look
at one image and at the weights, are the usual choice (De et al., 2022, Unlocking high-accuracy
differentially private image classification through scale).

`tf.vectorized_map` computes the gradients of all images at once: the fused ops take the images, and
the copies of a kernel, in one call. TensorFlow has no such rule for the gradients of the kernels of
convolutions, which it computes image by image; its warnings about that are not shown. The choices:

- Images are drawn independently for every step, each with the same probability (Poisson sampling),
  so that the number of images varies. The privacy accounting assumes exactly this.
- The sum of the gradients is divided by the expected number of images, not by the drawn one, which
  is private.
- The noise multiplier is calibrated to `--epsilon` by the library dp-accounting
  (`pip install dp-accounting`), from privacy loss distributions. The budget holds for adding or
  removing one training image.
- 4 channels per group, as the network is narrow, and a large batch, against which the noise is
  smaller.
- `--compare` times a step against one that computes the gradients in a loop.

The images are those of Fashion-MNIST (Xiao et al., 2017), from `--data`, from Debian's package
dataset-fashion-mnist, or downloaded by Keras.
"""

import argparse
import gzip
import json
import math
import statistics
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

try:
    import dp_accounting
except ModuleNotFoundError:
    sys.exit("dp_sgd.py needs dp-accounting: pip install dp-accounting")

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10
TIMED_STEPS = 5

#: How to compute the gradients of all images.
WAYS = {
    "vectorized": lambda function, batch, types: tf.vectorized_map(function, batch),
    "loop": lambda function, batch, types: tf.map_fn(function, batch, fn_output_signature=types),
}


def read_idx(path):
    """Returns the array of a gzipped file in the IDX format of MNIST."""
    with gzip.open(path) as file:
        content = file.read()
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load(folder):
    """Returns images and labels for training, and those for validation."""
    if folder is None:
        return keras.datasets.fashion_mnist.load_data()
    return [
        (
            read_idx(folder / f"{part}-images-idx3-ubyte.gz"),
            read_idx(folder / f"{part}-labels-idx1-ubyte.gz"),
        )
        for part in ("train", "t10k")
    ]


def build_model():
    inputs = keras.Input((28, 28, 1))
    body = tfgn.models.ResNet(
        blocks=(1, 1, 1),
        widths=(16, 32, 64),
        norm="gn",
        group_size=4,
        weight_standardization="bit",
        stem="small",
        zero_init_residual=False,
        include_top=False,
        pooling="avg",
        input_tensor=keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs),
    )
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(body.output))


def clipped_sum(gradients, clip_norm):
    """Returns the sum over the images, each clipped to a norm over all variables.

    Args:
        gradients: for each variable, those of all images, `[images, ...]`.
        clip_norm: the largest norm.
    """
    squares = [tf.reduce_sum(tf.square(g), axis=range(1, g.shape.rank)) for g in gradients]
    factors = tf.minimum(1.0, clip_norm * tf.math.rsqrt(tf.add_n(squares)))
    return [tf.tensordot(factors, gradient, 1) for gradient in gradients]


def gradients_in(how, model):
    """Returns the function from a batch to the gradients of each image.

    Args:
        how: a key of `WAYS`.
        model: the classifier.
    """
    variables = [variable.value for variable in model.trainable_variables]

    def of_image(image_and_label):
        image, label = image_and_label
        with tf.GradientTape() as tape:
            logits = model(image[tf.newaxis], training=True)
            loss = keras.losses.sparse_categorical_crossentropy(
                label[tf.newaxis], logits, from_logits=True
            )
        return tape.gradient(loss, variables)

    types = [variable.dtype for variable in variables]
    return lambda images, labels: WAYS[how](of_image, (images, labels), types)


def training_step(model, optimizer, args, noise_multiplier, how="vectorized"):
    """Returns the function that trains the model on the images drawn for a step."""
    gradients_of = gradients_in(how, model)
    spec = tf.TensorSpec([None, 28, 28, 1], tf.float32), tf.TensorSpec([None], tf.int32)

    @tf.function(input_signature=spec)
    def step(images, labels):
        gradients = []
        for gradient in clipped_sum(gradients_of(images, labels), args.clip_norm):
            noise = tf.random.normal(gradient.shape, stddev=noise_multiplier * args.clip_norm)
            gradients.append((gradient + noise) / args.batch_size)
        optimizer.apply(gradients, model.trainable_variables)

    return step


def calibrate(args, rate, steps):
    """Returns the noise multiplier that spends the budget, and the epsilon that it spends.

    Args:
        args: the options.
        rate: probability of an image to be drawn for a step.
        steps: number of steps.
    """

    def training(noise_multiplier):
        step = dp_accounting.PoissonSampledDpEvent(
            rate, dp_accounting.GaussianDpEvent(noise_multiplier)
        )
        return dp_accounting.SelfComposedDpEvent(step, steps)

    def accountant():
        # Ten times coarser than the default, rounded towards a larger epsilon, and as much faster.
        return dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)

    noise_multiplier = dp_accounting.calibrate_dp_mechanism(
        accountant,
        training,
        args.epsilon,
        args.delta,
        dp_accounting.ExplicitBracketInterval(0.1, 100),
        tol=1e-3,
    )
    spent = accountant().compose(training(noise_multiplier))
    return noise_multiplier, spent.get_epsilon(args.delta)


def compare(args, images, labels):
    """Prints the times of a step with each way to compute the gradients."""
    milliseconds = {}
    for how in WAYS:
        model = build_model()
        optimizer = keras.optimizers.SGD(args.learning_rate)
        optimizer.build(model.trainable_variables)
        step = training_step(model, optimizer, args, 1.0, how)
        batch = images[: args.batch_size], labels[: args.batch_size]
        step(*batch)
        times = []
        for _ in range(TIMED_STEPS):
            start = time.perf_counter()
            step(*batch)
            times.append(1e3 * (time.perf_counter() - start))
        milliseconds[how] = statistics.median(times)
        print(f"{how}: {milliseconds[how]:.0f} ms a step of {args.batch_size} images")
    return milliseconds


def train(args, images, labels, validation):
    rate = args.batch_size / len(images)
    steps = math.ceil(args.epochs / rate)
    noise_multiplier, epsilon = calibrate(args, rate, steps)
    print(
        f"{steps} steps, {args.batch_size} of {len(images)} images each on average; "
        f"noise multiplier {noise_multiplier:.3f}"
    )
    model = build_model()
    optimizer = keras.optimizers.SGD(args.learning_rate, momentum=0.9)
    optimizer.build(model.trainable_variables)
    model.compile(
        metrics=["accuracy"], loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    step = training_step(model, optimizer, args, noise_multiplier)
    rng = np.random.default_rng(args.seed)
    progress = keras.utils.Progbar(steps)
    for _ in range(steps):
        drawn = rng.random(len(images)) < rate
        step(images[drawn], labels[drawn])
        progress.add(1)
    accuracy = model.evaluate(*validation, batch_size=256, verbose=0)[1]
    print(
        f"accuracy {accuracy:.1%} on {len(validation[1])} images, with "
        f"(epsilon {epsilon:.2f}, delta {args.delta:g})-differential privacy"
    )
    return {"accuracy": accuracy, "epsilon": epsilon, "noise_multiplier": noise_multiplier}


def flag(name):
    return "--" + name.replace("_", "-")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DEBIAN if DEBIAN.is_dir() else None,
        metavar="FOLDER",
        help="the four gzipped IDX files of Fashion-MNIST or of a set like it",
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="training images to use (default: all)"
    )
    parser.add_argument(
        "--epsilon", type=float, default=3.0, help="privacy budget (default: %(default)s)"
    )
    parser.add_argument(
        "--delta", type=float, default=1e-5, help="privacy budget (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=int, default=5, help="passes over the images (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=512,
        help="expected images per step (default: %(default)s)",
    )
    parser.add_argument(
        "--clip-norm",
        type=float,
        default=1.0,
        help="largest norm of the gradient of an image (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate", type=float, default=0.5, help="learning rate (default: %(default)s)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="also time a step whose gradients come from a loop"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()
    for name, least in {"epochs": 1, "batch_size": 1, "images": 1}.items():
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"{flag(name)} must be {least} or more; received {value}")
    for name in ("epsilon", "delta", "clip_norm", "learning_rate"):
        if not 0 < getattr(args, name) < math.inf:
            parser.error(f"{flag(name)} must be above 0; received {getattr(args, name)}")
    try:
        (images, labels), (x_val, y_val) = load(args.data)
    except OSError as error:
        parser.error(f"--data: {error}")
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        parser.error(f"Fashion-MNIST cannot be downloaded ({error}): give its files with --data")

    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(args.seed)
    images, x_val = (x[..., np.newaxis].astype("float32") for x in (images, x_val))
    labels, y_val = labels.astype("int32"), y_val.astype("int32")
    if args.images is not None:
        chosen = np.random.default_rng(args.seed).permutation(len(images))[: args.images]
        images, labels = images[chosen], labels[chosen]
    if args.batch_size > len(images):
        parser.error(f"--batch-size must be at most {len(images)}; received {args.batch_size}")
    result = {}
    if args.compare:
        result["milliseconds"] = compare(args, images, labels)
    result |= train(args, images, labels, (x_val, y_val))
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
