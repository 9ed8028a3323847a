"""`tfgn.models`: the architectures."""

import ast
import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from model_checks import images, relative_error
from pairs import check_equal, check_round_trip, pairs
from tensorflow_groupnorm import models
from tensorflow_groupnorm.models._parts import documented_like
from training_steps import copy_weights

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


@pytest.mark.parametrize("name", models.__all__)
def test_functions_show_their_arguments_with_types_and_meaning(name):
    function = getattr(models, name)
    signature = inspect.signature(function)
    assert inspect.isfunction(function) and function.__name__ == name
    # An editor reads the source, not what a decorator makes of it.
    (definition,) = ast.parse(inspect.getsource(function)).body
    written = definition.args
    assert written.vararg is None and written.kwarg is None
    arguments = [*written.args, *written.kwonlyargs]
    assert [argument.arg for argument in arguments] == list(signature.parameters)
    assert all(argument.annotation is not None for argument in arguments)
    assert definition.returns is not None and len(ast.get_docstring(definition)) > 200
    text = inspect.getdoc(function)
    section = re.search(r"^Args:\n((?: {4}.*\n)+)", text, re.M)[1]
    assert re.findall(r"^ {4}(\w+): ", section, re.M) == list(signature.parameters)
    assert "Raises:" in text and "Reference" in text


def _network(classes=1000, groups=None):
    """A network of a test.

    Arguments, result and errors are those of `ResNet`.

    References:
        - The test
    """


def _general(stages=1, classes=1000, groups=None):
    """Another.

    Args:
        stages: how many
            there are.
        classes: classes of the top.
        groups: groups.

    Returns:
        A model.
    """


COMPLETED = """A network of a test.

Args:
    classes: classes of the top.
    groups: groups.

Returns:
    A model.

References:
    - The test"""


@pytest.mark.parametrize("without", [False, True])  # Python 3.13 compiles docstrings so.
def test_completed_docstring_does_not_depend_on_indentation(without, monkeypatch):
    for function in (_network, _general):
        text = inspect.cleandoc(function.__doc__) + "\n" if without else function.__doc__
        monkeypatch.setattr(function, "__doc__", text)
    assert inspect.getdoc(documented_like(_general)(_network)) == COMPLETED


def test_stages_blocks_and_widths():
    model = models.ResNet((3, 3, 3), (16, 32, 64), stem="small", groups=8, classes=10)
    # 0.27 million, as in table 6 of arXiv 1512.03385, and 2,752 of shortcuts with projections.
    assert 0.27e6 < model.count_params() < 0.28e6
    assert model.layers[-3].output.shape == (None, None, None, 64)
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == 19 + 2
    with keras.StatelessScope():
        general, published = models.ResNet((3, 4, 6, 3), bottleneck=True), models.ResNet50()
    assert len(general.layers) == len(published.layers)
    for ours, theirs in zip(general.layers[1:], published.layers[1:], strict=True):
        assert ours.get_config() == theirs.get_config()


def test_options_of_the_general_resnet():
    arguments = {"include_top": False, "groups": 8, "zero_init_residual": False, "gain": True}
    model = models.ResNet((1, 1), (8, 16), padding="same", stem="small", **arguments)
    assert all(layer.gamma.numpy().all() for layer in model.layers if "norm" in layer.name)
    convolutions = [layer for layer in model.layers if layer.name.endswith(("conv", "conv1"))]
    assert {layer.gain.shape[0] for layer in convolutions} == {8, 16}
    assert not any(isinstance(layer, keras.layers.ZeroPadding2D) for layer in model.layers)
    assert model(images(8)).shape == (2, 4, 4, 16)


@pytest.mark.parametrize(
    ("build", "arguments", "pairs_in_it"),
    [
        (models.ResNet, {"blocks": (1, 1), "widths": (8, 16)}, 3),
        (models.ResNet, {"blocks": (2,), "widths": (8,), "bottleneck": True, "stem": "small"}, 5),
        pytest.param(models.BiT_R50x1, {}, 48, marks=pytest.mark.slow),
    ],
)
def test_save_memory(build, arguments, pairs_in_it, tmp_path):
    arguments |= {"groups": 8, "classes": 3, "classifier_activation": None}
    plain, model = build(**arguments), build(**arguments, save_memory=True)
    assert len(pairs(model)) == pairs_in_it and not pairs(plain)
    copy_weights(plain, model)
    check_equal(plain, model, images(32))
    check_round_trip(model, images(32), tmp_path)


def test_save_memory_on_top_of_another_tensor_leaves_its_layers_alone():
    inputs = keras.Input((32, 32, 3))
    x = tfgn.layers.GroupNormalization(2, name="mine")(keras.layers.Conv2D(4, 1)(inputs))
    arguments = {"include_top": False, "groups": 4, "save_memory": True}
    model = models.ResNet((1,), (8,), input_tensor=x, **arguments)
    assert model.inputs[0] is inputs and len(pairs(model)) == 1
    assert type(model.get_layer("mine")) is tfgn.layers.GroupNormalization
    assert type(model.get_layer("stem_conv")) is tfgn.layers.StandardizedConv2D


@pytest.mark.parametrize(
    ("blocks", "widths", "arguments", "message"),
    [
        ((), (), {}, "`blocks` and `widths` must have one positive int for each stage"),
        ((1, 1), (8,), {}, r"Received: blocks=\(1, 1\), widths=\(8,\)"),
        ((1, 0), (8, 16), {}, "one positive int"),
        ((1,), (8,), {"padding": "valid"}, "`padding` must be one of 'symmetric', 'same'"),
        ((1,), (8,), {"gain": True, "weight_standardization": None}, "`gain` scales standardized"),
        ((1,), (8,), {"save_memory": True, "norm": "bn"}, "needs norm='gn'.*norm='bn'"),
    ],
)
def test_invalid_stages(blocks, widths, arguments, message):
    with keras.StatelessScope(), pytest.raises(ValueError, match=message):
        models.ResNet(blocks, widths, **arguments)


@pytest.mark.parametrize("name", ["ResNet34", "BiT_R50x1"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "batch"}, "`norm` must be one of 'gn', 'bn', None. Received: norm='batch'"),
        ({"weight_standardization": "ws"}, "`weight_standardization`: `variant` must be one of"),
        ({"stem": "tiny"}, "`stem` must be one of 'large', 'small'. Received: stem='tiny'"),
        (
            {"pooling": "mean"},
            "`pooling` must be one of 'avg', 'max', None. Received: pooling='mean'",
        ),
        ({"groups": 32, "group_size": 2}, "either `groups` or `group_size`"),
        ({"groups": 3}, "`groups` must divide.*groups=3 for 64 channels"),
    ],
)
def test_invalid_arguments(name, arguments, message):
    with keras.StatelessScope(), pytest.raises(ValueError, match=message):
        getattr(models, name)(**arguments)
