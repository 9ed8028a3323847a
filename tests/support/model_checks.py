"""What the tests of `tfgn.models` share."""

import numpy as np


def images(side=64, n=2):
    return np.random.default_rng(0).uniform(-1, 1, (n, side, side, 3)).astype("float32")


def relative_error(actual, expected):
    expected = np.asarray(expected)
    return np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
