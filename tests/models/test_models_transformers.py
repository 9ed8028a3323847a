"""`tfgn.models` against the networks of PyTorch's transformers."""

import keras
import numpy as np
import pytest
from bit_checkpoints import WIDTHS, bit_arrays
from model_checks import images, relative_error
from tensorflow_groupnorm import models

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
