"""`tfgn.models.load_bit_npz`: the checkpoints of Big Transfer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from bit_checkpoints import bit_arrays
from model_checks import images, relative_error
from tensorflow_groupnorm import models

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def bit_logits(arrays, x):
    """Big Transfer's network, read off its checkpoint, in stock ops."""

    def conv(name, x, strides=1):
        kernel = arrays[f"resnet/{name}/standardized_conv2d/kernel"].astype("float64")
        kernel = (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-10)
        return tf.nn.conv2d(padded(x, len(kernel) // 2), kernel, strides, "VALID")

    def padded(x, n):
        return tf.pad(x, [[0, 0], [n, n], [n, n], [0, 0]])

    def norm_relu(name, x):
        gamma, beta = (arrays[f"resnet/{name}group_norm/{p}"] for p in ("gamma", "beta"))
        groups = tf.reshape(x, [*x.shape[:3], 32, -1])
        mean, variance = tf.nn.moments(groups, [1, 2, 4], keepdims=True)
        groups = (groups - mean) / tf.sqrt(variance + 1e-5)
        return tf.nn.relu(tf.reshape(groups, x.shape) * gamma + beta)

    x = conv("root_block", tf.cast(x, "float64"), 2)
    x = tf.nn.max_pool2d(padded(x, 1), 3, 2, "VALID")
    for scope in sorted({key.split("/a/")[0][7:] for key in arrays if "/a/" in key}):
        strides = 2 if scope.endswith("unit01") and not scope.startswith("block1") else 1
        y = norm_relu(f"{scope}/a/", x)
        if f"resnet/{scope}/a/proj/standardized_conv2d/kernel" in arrays:
            x = conv(f"{scope}/a/proj", y, strides)
        y = norm_relu(f"{scope}/b/", conv(f"{scope}/a", y))
        y = norm_relu(f"{scope}/c/", conv(f"{scope}/b", y, strides))
        x += conv(f"{scope}/c", y)
    x = tf.reduce_mean(norm_relu("", x), [1, 2])
    return x @ arrays["resnet/head/conv2d/kernel"][0, 0] + arrays["resnet/head/conv2d/bias"]


@pytest.fixture(scope="module")
def arrays():
    return bit_arrays()


@pytest.fixture(scope="module")
def checkpoint(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("bit") / "BiT-M-R50x1.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def bit():
    return models.BiT_R50x1(classes=5, classifier_activation=None)


def test_checkpoint_gives_the_logits_of_the_published_network(bit, arrays, checkpoint):
    models.load_bit_npz(bit, checkpoint)
    for side in (64, 75):
        x = images(side)
        assert relative_error(bit(x), bit_logits(arrays, x)) < 1e-4


def test_checkpoint_fills_a_model_that_saves_memory(bit, checkpoint):
    models.load_bit_npz(bit, checkpoint)
    paired = models.BiT_R50x1(classes=5, classifier_activation=None, save_memory=True)
    models.load_bit_npz(paired, checkpoint)
    np.testing.assert_array_equal(paired(images(64)), bit(images(64)))


def test_heads(bit, arrays, checkpoint):
    ten = models.BiT_R50x1(classes=10, classifier_activation=None)
    before = ten.get_layer("head").get_weights()
    models.load_bit_npz(ten, checkpoint, head="leave")
    for old, new in zip(before, ten.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    models.load_bit_npz(ten, checkpoint, head="zeros")
    np.testing.assert_array_equal(ten(images()), np.zeros((2, 10)))
    with pytest.raises(ValueError, match=r"head/conv2d/kernel.*5\).*10\).*head='zeros'"):
        models.load_bit_npz(ten, checkpoint)
    features = models.BiT_R50x1(include_top=False, pooling="avg")
    models.load_bit_npz(features, checkpoint)
    head, bias = (arrays[f"resnet/head/conv2d/{name}"] for name in ("kernel", "bias"))
    expected = bit_logits(arrays, images())
    assert relative_error(features(images()) @ head[0, 0] + bias, expected) < 1e-4
    np.testing.assert_array_equal(
        ten.get_layer("block4_unit03_c_conv").kernel,
        arrays["resnet/block4/unit03/c/standardized_conv2d/kernel"],
    )


def without(arrays, key):
    return {k: v for k, v in arrays.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: without(a, "resnet/block2/unit03/b/group_norm/beta"),
            "has no array 'resnet/block2/unit03/b/group_norm/beta'",
        ),
        (
            lambda a: without(a, "resnet/root_block/standardized_conv2d/kernel"),
            "has no array 'resnet/root_block/standardized_conv2d/kernel'",
        ),
        (
            lambda a: {**a, "resnet/group_norm/gamma": np.ones(3)},
            r"'resnet/group_norm/gamma' in shape \(3,\) where the model needs \(2048,\)",
        ),
        (
            lambda a: {**a, "resnet/block3/unit07/a/group_norm/gamma": np.ones(3)},
            "another size.*'bit_r50x1'.*'resnet/block3/unit07/a/group_norm/gamma'",
        ),
        (lambda a: {"a": np.array([{}], object)}, "is not a .npz file of plain arrays"),
    ],
)
def test_checkpoints_that_do_not_fit_change_nothing(change, message, bit, arrays, tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, **change(arrays))
    before = bit.get_weights()
    with pytest.raises(ValueError, match=message):
        models.load_bit_npz(bit, path)
    for old, new in zip(before, bit.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_files_that_are_no_checkpoints(bit, tmp_path):
    (tmp_path / "text.npz").write_text("nothing")
    np.save(tmp_path / "array.npy", np.ones(3))
    for name in ("text.npz", "array.npy"):
        with pytest.raises(ValueError, match=f"{name} is not a .npz file"):
            models.load_bit_npz(bit, tmp_path / name)
    with pytest.raises(FileNotFoundError):
        models.load_bit_npz(bit, tmp_path / "missing.npz")


def test_models_that_take_no_checkpoint(bit, checkpoint):
    with pytest.raises(ValueError, match="`head` must be one of 'load', 'zeros', 'leave'"):
        models.load_bit_npz(bit, checkpoint, head="new")
    with keras.StatelessScope():
        for arguments in ({"norm": "bn"}, {"weight_standardization": None}):
            model = models.BiT_R50x1(**arguments)
            with pytest.raises(ValueError, match="must have GroupNorm and weight standardization"):
                models.load_bit_npz(model, checkpoint)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="other")
    with pytest.raises(ValueError, match="made by a BiT function.*'other'"):
        models.load_bit_npz(other, checkpoint)
