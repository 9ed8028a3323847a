"""`tfgn.models`: architectures, and the checkpoints of Big Transfer."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from bit_checkpoints import WIDTHS, bit_arrays
from tensorflow_groupnorm import models

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Millions of parameters, as published: torchvision's documentation, timm's results.
PARAMETERS = {
    "ResNet18": 11.69,
    "ResNet34": 21.80,
    "ResNet50": 25.56,
    "ResNet101": 44.55,
    "BiT_R50x1": 25.55,
    "BiT_R50x3": 217.32,
    "BiT_R101x1": 44.54,
    "BiT_R101x3": 387.93,
    "BiT_R152x2": 236.34,
    "BiT_R152x4": 936.53,
}


def images(side=64, n=2):
    return np.random.default_rng(0).uniform(-1, 1, (n, side, side, 3)).astype("float32")


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


def relative_error(actual, expected):
    expected = np.asarray(expected)
    return np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()


# Architectures


def thorough_unless(quick, names):
    return [pytest.param(n, marks=[] if n in quick else pytest.mark.thorough) for n in names]


@pytest.mark.parametrize("name", thorough_unless(("ResNet18", "ResNet50", "BiT_R50x1"), PARAMETERS))
def test_number_of_parameters_is_the_published_one(name):
    with keras.StatelessScope():  # Makes no variables: the largest network has 4 GB of them.
        model = getattr(models, name)()
    assert round(model.count_params() / 1e6, 2) == PARAMETERS[name]
    assert model.name == name.lower() and model.output_shape == (None, 1000)


@pytest.mark.parametrize(("name", "channels"), [("ResNet18", 512), ("BiT_R50x1", 2048)])
def test_without_a_top(name, channels):
    build = getattr(models, name)
    with keras.StatelessScope():
        assert build(include_top=False).output_shape == (None, None, None, channels)
        shape = build(include_top=False, input_shape=(96, 64, 1)).output_shape
        assert shape == (None, 3, 2, channels)
        small = build(include_top=False, input_shape=(32, 32, 3), stem="small")
        assert small.output_shape == (None, 4, 4, channels)


def test_pooling():
    x = images(32)
    features = models.ResNet18(include_top=False)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = models.ResNet18(include_top=False, pooling=pooling)
        pooled.set_weights(features.get_weights())
        np.testing.assert_allclose(pooled(x), reduce(features(x), (1, 2)), rtol=1e-4, atol=1e-5)


def test_on_top_of_another_tensor():
    inputs = keras.Input((32, 32, 3), name="raw")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    model = models.ResNet18(input_tensor=x, classes=3, stem="small")
    assert model.inputs[0] is inputs and model.output_shape == (None, 3)
    np.testing.assert_allclose(np.sum(model(images(32)), -1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "norm", "conv"),
    [
        ({}, tfgn.layers.GroupNormalization, tfgn.layers.StandardizedConv2D),
        ({"norm": "bn", "weight_standardization": None}, "BatchNormalization", "Conv2D"),
        ({"norm": None, "weight_standardization": "nfnet"}, None, None),
        ({"group_size": 16, "epsilon": 1e-3}, None, None),
    ],
)
@pytest.mark.parametrize("name", ["ResNet18", "BiT_R50x1"])
def test_norm_and_weight_standardization(name, arguments, norm, conv):
    with keras.StatelessScope():
        model = getattr(models, name)(stem="small", classes=3, **arguments)
    kinds = {type(layer) for layer in model.layers}
    if isinstance(norm, str):
        assert {getattr(keras.layers, norm), getattr(keras.layers, conv)} <= kinds
        assert not kinds & {tfgn.layers.GroupNormalization, tfgn.layers.StandardizedConv2D}
    elif norm is not None:
        assert {norm, conv} <= kinds
        assert not kinds & {keras.layers.BatchNormalization, keras.layers.Conv2D}
    convs = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {layer.use_bias for layer in convs} == {arguments.get("norm", "gn") is None}
    if arguments.get("weight_standardization"):
        assert {layer.variant for layer in convs} == {"nfnet"}
    for layer in model.layers:
        if isinstance(layer, tfgn.layers.GroupNormalization):
            assert layer.epsilon == arguments.get("epsilon", 1e-5)
            assert layer.group_size == arguments.get("group_size")


def test_fused_group_normalizations_are_those_of_the_same_network_in_separate_layers():
    fused = models.ResNet18(classes=3, stem="small", weight_standardization=None, groups=4)
    plain = models.ResNet18(classes=3, stem="small", weight_standardization=None, norm="bn")
    other = tfgn.convert(plain, weight_standardization=None, groups=4, fuse=False, report=None)
    rng = np.random.default_rng(0)
    for layer in fused.layers:
        for variable in layer.weights:
            variable.assign(rng.normal(0.2, 0.5, variable.shape))
            getattr(other.get_layer(layer.name), variable.name).assign(variable)
    assert relative_error(other(images(32)), fused(images(32))) < 1e-4


@pytest.mark.parametrize("name", thorough_unless(("ResNet18",), ("ResNet18", "BiT_R50x1")))
def test_learns_to_tell_bright_images_from_dark_ones(name):
    model = getattr(models, name)(
        input_shape=(8, 8, 3), classes=2, stem="small", classifier_activation=None
    )
    labels = np.arange(8) % 2
    x = images(8, 8) + labels[:, np.newaxis, np.newaxis, np.newaxis]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, run_eagerly=True)
    losses = [model.train_on_batch(x, labels) for _ in range(4)]
    assert losses[-1] < 0.5 * losses[0]


def test_blocks_start_as_the_identity():
    model = models.ResNet18(stem="small", include_top=False)
    gammas = [np.array(layer.gamma) for layer in model.layers if layer.name.endswith("_norm2")]
    assert len(gammas) == 8 and not any(gamma.any() for gamma in gammas)


def test_signature_is_that_of_keras_applications():
    theirs = inspect.signature(keras.applications.ResNet50).parameters
    for name in PARAMETERS:
        ours = inspect.signature(getattr(models, name)).parameters
        for argument in set(theirs) - {"weights", "name"}:
            assert ours[argument].default == theirs[argument].default
        assert "Args:" in getattr(models, name).__doc__


@pytest.mark.parametrize("name", ["ResNet34", "BiT_R50x1"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "batch"}, "`norm` must be one of 'gn', 'bn', None. Received: norm='batch'"),
        ({"weight_standardization": "ws"}, "`weight_standardization`: `variant` must be one of"),
        ({"stem": "tiny"}, "`stem` must be one of 'large', 'small'. Received: stem='tiny'"),
        ({"pooling": "mean"}, "`pooling` must be 'avg', 'max' or None. Received: pooling='mean'"),
        ({"groups": 3}, "`groups` must divide.*groups=3 for 64 channels"),
    ],
)
def test_invalid_arguments(name, arguments, message):
    with keras.StatelessScope(), pytest.raises(ValueError, match=message):
        getattr(models, name)(**arguments)


# Checkpoints of Big Transfer


def test_checkpoint_gives_the_logits_of_the_published_network(bit, arrays, checkpoint):
    models.load_bit_npz(bit, checkpoint)
    for side in (64, 75):
        x = images(side)
        assert relative_error(bit(x), bit_logits(arrays, x)) < 1e-4


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


# Independent implementations


def bit_of_transformers(arrays, units, factor, classes):
    """transformers' BiT with the weights of a checkpoint."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.BitConfig(
        depths=list(units),
        embedding_size=64 * factor,
        hidden_sizes=[4 * factor * width for width in WIDTHS],
        num_labels=classes,
    )
    network = transformers.BitForImageClassification(config).eval()
    names = {
        "bit.embedder.convolution.weight": "root_block/standardized_conv2d/kernel",
        "bit.norm.weight": "group_norm/gamma",
        "bit.norm.bias": "group_norm/beta",
        "classifier.1.weight": "head/conv2d/kernel",
        "classifier.1.bias": "head/conv2d/bias",
    }
    for block, count in enumerate(units):
        for unit in range(count):
            ours = f"block{block + 1}/unit{unit + 1:02}"
            theirs = f"bit.encoder.stages.{block}.layers.{unit}"
            conv = "standardized_conv2d/kernel"
            names[f"{theirs}.downsample.conv.weight"] = f"{ours}/a/proj/{conv}"
            for i, part in enumerate("abc", 1):
                names[f"{theirs}.conv{i}.weight"] = f"{ours}/{part}/{conv}"
                names[f"{theirs}.norm{i}.weight"] = f"{ours}/{part}/group_norm/gamma"
                names[f"{theirs}.norm{i}.bias"] = f"{ours}/{part}/group_norm/beta"
    state = network.state_dict()
    for name, tensor in state.items():
        array = arrays[f"resnet/{names[name]}"]
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        tensor.copy_(torch.from_numpy(array.copy()).reshape(tensor.shape))
    return lambda x: network(torch.from_numpy(x.transpose(0, 3, 1, 2))).logits.detach().numpy()


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "units", "factor"),
    [
        ("BiT_R50x1", (3, 4, 6, 3), 1),
        ("BiT_R101x1", (3, 4, 23, 3), 1),
        ("BiT_R152x2", (3, 8, 36, 3), 2),
    ],
)
def test_logits_equal_those_of_transformers(name, units, factor, tmp_path):
    arrays = bit_arrays(units, factor, classes=7)
    theirs = bit_of_transformers(arrays, units, factor, classes=7)
    np.savez(tmp_path / "bit.npz", **arrays)
    model = getattr(models, name)(classes=7, classifier_activation=None)
    models.load_bit_npz(model, tmp_path / "bit.npz")
    for side in (64, 97):
        assert relative_error(model(images(side)), theirs(images(side))) < 1e-4


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ResNet18", "ResNet50"])
def test_resnets_with_batch_norm_equal_those_of_transformers(name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    basic = name == "ResNet18"
    config = transformers.ResNetConfig(
        depths=[2, 2, 2, 2] if basic else [3, 4, 6, 3],
        hidden_sizes=[width * (1 if basic else 4) for width in WIDTHS],
        layer_type="basic" if basic else "bottleneck",
        num_labels=7,
    )
    network = transformers.ResNetForImageClassification(config).eval()
    model = getattr(models, name)(
        classes=7, classifier_activation=None, norm="bn", weight_standardization=None
    )
    keras.utils.set_random_seed(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.random.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    state = network.state_dict()

    def fill(theirs, layer):
        if isinstance(layer, keras.layers.Conv2D):
            values = {"weight": np.array(layer.kernel).transpose(3, 2, 0, 1)}
        elif isinstance(layer, keras.layers.Dense):
            values = {"weight": np.array(layer.kernel).T, "bias": np.array(layer.bias)}
        else:
            values = {
                "weight": np.array(layer.gamma),
                "bias": np.array(layer.beta),
                "running_mean": np.array(layer.moving_mean),
                "running_var": np.array(layer.moving_variance),
            }
        for key, value in values.items():
            state[f"{theirs}.{key}"].copy_(torch.from_numpy(value.copy()))

    def fill_pair(theirs, ours, number=""):
        fill(f"{theirs}.convolution", model.get_layer(f"{ours}_conv{number}"))
        fill(f"{theirs}.normalization", model.get_layer(f"{ours}_norm{number}"))

    fill_pair("resnet.embedder.embedder", "stem")
    for stage, count in enumerate(config.depths):
        for block in range(count):
            theirs = f"resnet.encoder.stages.{stage}.layers.{block}"
            ours = f"stage{stage + 1}_block{block + 1}"
            for i in range(2 if basic else 3):
                fill_pair(f"{theirs}.layer.{i}", ours, i + 1)
            if f"{theirs}.shortcut.convolution.weight" in state:
                fill_pair(f"{theirs}.shortcut", f"{ours}_shortcut")
    fill("classifier.1", model.get_layer("head"))
    x = images(64)
    theirs = network(torch.from_numpy(x.transpose(0, 3, 1, 2))).logits.detach().numpy()
    assert relative_error(model(x), theirs) < 1e-4
