"""`tfgn.convert`: weights and outputs, the report, what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from conversions import Fused, batch_norm, changes, convert, images, randomize, resnet, stock_norm
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_stock_group_normalization_keeps_weights_and_outputs(activation):
    model = randomize(resnet(stock_norm, activation))
    converted, report = convert(model, weight_standardization=None)
    old, new = ({w.path: np.array(w) for w in m.weights} for m in (model, converted))
    assert old.keys() == new.keys()
    for path in old:
        np.testing.assert_array_equal(old[path], new[path])
    x = images()
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    norms = [layer for layer in converted.layers if isinstance(layer, Fused)]
    assert len(norms) == 6 and report.count("replaced") == 6
    fused_activations = 0 if activation == "gelu" else 5
    assert report.count("fused") == 2 + fused_activations
    assert sum(layer.activation is keras.activations.get(activation) for layer in norms) == (
        fused_activations
    )
    assert len(converted.layers) == len(model.layers) - report.count("fused")


def test_batch_normalization_becomes_the_group_normalization_one_would_write():
    """The same weights in a network of stock layers that was built with GroupNormalization."""
    model = randomize(resnet(batch_norm))
    converted, report = convert(model, weight_standardization=None, groups=4)
    by_hand = resnet(stock_norm)
    for layer in by_hand.layers:
        for variable in layer.weights:
            variable.assign(getattr(model.get_layer(layer.name), variable.name))
    x = images()
    np.testing.assert_allclose(converted(x), by_hand(x), rtol=1e-4, atol=1e-5)
    assert report.dropped == {"moving_mean": 6, "moving_variance": 6}
    assert converted.name == "small"


def test_layers_keep_their_initializers():
    """They draw no numbers in a conversion, but do when a layer is made from the config."""
    steps = [
        layers.Conv1D(4, 3, kernel_initializer="he_normal", bias_initializer="ones"),
        layers.BatchNormalization(),
    ]
    steps += [
        layers.DepthwiseConv1D(3, depthwise_initializer="orthogonal"),
        layers.BatchNormalization(),
    ]
    steps += [layers.Dense(2, kernel_initializer="lecun_normal")]
    model = randomize(keras.Sequential([keras.Input((9, 3)), *steps]))
    converted, _ = convert(model)
    conv, _, depthwise, _, dense = converted.layers
    assert isinstance(conv, tfgn.layers.StandardizedConv1D)
    assert isinstance(conv.kernel_initializer, keras.initializers.HeNormal)
    assert isinstance(conv.bias_initializer, keras.initializers.Ones)
    assert isinstance(depthwise, tfgn.layers.WeightStandardization)
    assert isinstance(depthwise.layer.depthwise_initializer, keras.initializers.Orthogonal)
    assert isinstance(dense.kernel_initializer, keras.initializers.LecunNormal)
    fresh = keras.models.clone_model(converted)
    assert np.std(fresh.layers[0].kernel) > 0 and np.std(fresh.layers[-1].kernel) > 0
    for old, new in zip(model.get_weights()[:2], converted.get_weights()[:2], strict=True):
        np.testing.assert_array_equal(old, new)


def test_standardized_kernels_are_the_ones_one_would_compute():
    model = randomize(resnet(stock_norm))
    converted, report = convert(model, norm=None, weight_standardization="qiao")
    by_hand = keras.models.clone_model(model)
    by_hand.set_weights(model.get_weights())
    for layer in by_hand.layers:
        if isinstance(layer, layers.Conv2D):
            layer.kernel.assign(tfgn.stock.standardize_weights(layer.kernel, variant="qiao"))
    x = images()
    np.testing.assert_allclose(converted(x), by_hand(x), rtol=1e-3, atol=1e-4)
    assert report.count("replaced") == 6 and report.count("fused") == 0
    assert changes(report)["logits"].action == "kept"


def test_the_original_is_untouched():
    model = randomize(resnet(batch_norm))
    x = images()
    config, weights, outputs = model.get_config(), model.get_weights(), model(x)
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    converted, _ = convert(model)
    for variable in converted.variables:
        variable.assign(tf.zeros_like(variable))
    assert model.get_config() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model(x), outputs)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


def test_saved_and_reloaded_outputs_are_equal(tmp_path):
    converted, _ = convert(randomize(resnet(batch_norm)), group_size=4)
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images()
    np.testing.assert_array_equal(loaded(x), converted(x))


# The report and the errors


def test_report_as_text_and_as_json(capsys):
    model = resnet(batch_norm)
    tfgn.convert(model, groups=4)
    printed = capsys.readouterr().out
    _, report = convert(model, groups=4)
    assert printed == str(report) + "\n"
    assert printed.startswith("Conversion of small: 12 replaced, 7 fused, 1 kept\n")
    for words in (
        "Conv2D -> StandardizedConv2D",
        "6 x  stem, conv0 and 4 more",
        "GroupNormalization, 4 groups",
        "Add -> residual of the normalization",
        "weight standardization is for convolutions",
        "moving_variance of 6 layers",
    ):
        assert words in printed
    every = report.table(every_layer=True)
    assert all(change.name in every for change in report.changes)
    assert report.to_dict()["changes"][0]["action"] in ("replaced", "fused", "kept")
    tfgn.convert(model, report=None)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("norm", "arguments", "other_outputs"),
    [
        (batch_norm, {}, True),
        (batch_norm, {"norm": None}, True),
        (batch_norm, {"weight_standardization": None}, True),
        (stock_norm, {"weight_standardization": None}, False),
        (batch_norm, {"norm": None, "weight_standardization": None}, False),
    ],
)
def test_report_ends_with_what_to_do(norm, arguments, other_outputs):
    _, report = convert(resnet(norm), groups=4, **arguments)
    assert str(report).splitlines()[-1].startswith("Fine-tune before use") == other_outputs
    assert report.to_dict()["outputs_change"] == other_outputs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "bn"}, "`norm` must be 'gn' or None. Received: norm='bn'"),
        ({"groups": 0}, "`groups` must be a positive integer or -1. Received: groups=0"),
        ({"groups": 2.0}, "`groups` must be.*groups=2.0"),
        ({"group_size": 0}, "`group_size` must be None or a positive.*group_size=0"),
        ({"groups": 4, "group_size": 4}, "either `groups` or `group_size`.*groups=4, group_size=4"),
        ({"groups": 32, "group_size": 4}, "either `groups` or `group_size`.*groups=32"),
        ({"weight_standardization": "ws"}, "`weight_standardization`: `variant` must be one of"),
        ({"weight_standardization": {"gain": True}}, "must have the key 'variant'"),
        ({"keep": ["stam"]}, "no layer is named 'stam'; similar names are 'stem'"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfgn.convert(resnet(batch_norm), **arguments)


def test_models_of_tf_keras_are_refused_with_what_to_do():
    functional = type("Functional", (), {"__module__": "tf_keras.src.engine.functional"})
    own = type("Own", (functional,), {})
    for model in (functional(), own()):
        with pytest.raises(TypeError, match="tf-keras.*`tfgn convert old.h5 new.keras`"):
            tfgn.convert(model)
