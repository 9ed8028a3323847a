"""Checkpoints of Big Transfer with random weights."""

import numpy as np

WIDTHS = (64, 128, 256, 512)


def bit_arrays(units=(3, 4, 6, 3), factor=1, classes=5, seed=0):
    """A random checkpoint, in the names and shapes of the published ones."""
    rng = np.random.default_rng(seed)
    arrays = {}

    def kernel(name, *shape):
        arrays[f"resnet/{name}/kernel"] = rng.normal(0.1, 0.3, shape).astype("float32")

    def norm(name, size):
        gamma, beta = rng.uniform(0.5, 1.5, size), rng.normal(0, 0.3, size)
        arrays[f"resnet/{name}/gamma"] = gamma.astype("float32")
        arrays[f"resnet/{name}/beta"] = beta.astype("float32")

    kernel("root_block/standardized_conv2d", 7, 7, 3, 64 * factor)
    inputs = 64 * factor
    for block, (count, width) in enumerate(zip(units, WIDTHS, strict=True), 1):
        width *= factor
        for unit in range(1, count + 1):
            scope = f"block{block}/unit{unit:02}"
            if unit == 1:
                kernel(f"{scope}/a/proj/standardized_conv2d", 1, 1, inputs, 4 * width)
            norm(f"{scope}/a/group_norm", inputs)
            kernel(f"{scope}/a/standardized_conv2d", 1, 1, inputs, width)
            norm(f"{scope}/b/group_norm", width)
            kernel(f"{scope}/b/standardized_conv2d", 3, 3, width, width)
            norm(f"{scope}/c/group_norm", width)
            kernel(f"{scope}/c/standardized_conv2d", 1, 1, width, 4 * width)
            inputs = 4 * width
    norm("group_norm", inputs)
    kernel("head/conv2d", 1, 1, inputs, classes)
    arrays["resnet/head/conv2d/bias"] = rng.normal(size=classes).astype("float32")
    return arrays
