"""`tfgn.convert`: the graph, the weights, the report."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Fused = tfgn.layers.GroupNormalization


def randomize(model, seed=1):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.2, 1, w.shape) for w in model.get_weights()])
    return model


def images(*shape, seed=0):
    shape = shape or (2, 8, 8, 3)
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def convert(model, *args, **kwargs):
    """Returns the converted model and its report."""
    reports = []
    converted = tfgn.convert(model, *args, **kwargs, report=reports.append)
    assert len(reports) == 1
    return converted, reports[0]


def changes(report):
    return {change.name: change for change in report.changes}


def resnet(norm, activation="relu", side=8):
    """Two blocks, one with a projection; `norm(name)` makes its normalizations."""
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = layers.Activation(activation, name="stem_act")(norm("stem_norm")(x))
    for i, filters in enumerate((8, 16)):
        shortcut = x
        if filters != 8:
            shortcut = layers.Conv2D(filters, 1, name=f"proj{i}")(x)
            shortcut = norm(f"proj_norm{i}")(shortcut)
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{i}")(x)
        x = layers.Activation(activation, name=f"act{i}")(norm(f"norm{i}")(x))
        x = layers.Conv2D(filters, 3, padding="same", name=f"last_conv{i}")(x)
        x = layers.Add(name=f"add{i}")([shortcut, norm(f"last_norm{i}")(x)])
        x = layers.Activation(activation, name=f"last_act{i}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name="small")


def batch_norm(name):
    return layers.BatchNormalization(epsilon=1e-2, name=name)


def stock_norm(name):
    return layers.GroupNormalization(4, epsilon=1e-2, name=name)


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


# What is fused


def fusion_case(build, **options):
    """Converts a model of one stock norm; checks its outputs; returns the norm and the report."""
    inputs = keras.Input((4, 4, 8))
    outputs = build(inputs, layers.GroupNormalization(2, name="norm"))
    # A layer behind it: what gives an output of a model is not fused.
    model = randomize(keras.Model(inputs, layers.Dense(3)(outputs)))
    converted, report = convert(model, weight_standardization=None, **options)
    x = images(2, 4, 4, 8)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    return converted, report


def test_residual_on_either_side_and_as_an_operator():
    for build in (
        lambda x, norm: layers.Add()([norm(x), x]),
        lambda x, norm: layers.Add()([x, norm(x)]),
        lambda x, norm: norm(x) + x,
        lambda x, norm: x + norm(x),
    ):
        _, report = fusion_case(build)
        assert report.count("fused") == 1


@pytest.mark.parametrize(
    "activation",
    [
        layers.ReLU,
        lambda: keras.activations.relu,
        lambda: keras.ops.relu,
        lambda: layers.Activation("swish"),
        lambda: keras.ops.silu,
    ],
)
def test_activations_that_are_fused(activation):
    converted, report = fusion_case(lambda x, norm: activation()(norm(x) + x))
    assert report.count("fused") == 2
    assert len(converted.operations) == 3


@pytest.mark.parametrize(
    "build",
    [
        lambda x, norm: layers.ReLU(6.0)(norm(x)),
        lambda x, norm: layers.ReLU(negative_slope=0.1)(norm(x)),
        lambda x, norm: layers.ReLU(threshold=0.5)(norm(x)),
        lambda x, norm: layers.Activation("tanh")(norm(x)),
        lambda x, norm: (lambda y: y + y)(norm(x)),
        lambda x, norm: (lambda y: layers.ReLU()(y) * y)(norm(x)),
        lambda x, norm: (lambda y: layers.Add()([y, x]) * y)(norm(x)),
        lambda x, norm: layers.Add()([norm(x), x, x]),
        lambda x, norm: norm(x) + 1.0,
        lambda x, norm: layers.Add()([norm(x), layers.GlobalAveragePooling2D(keepdims=True)(x)]),
        lambda x, norm: layers.Subtract()([x, norm(x)]),
        lambda x, norm: (lambda relu: relu(norm(x)) + relu(x))(layers.ReLU()),
        lambda x, norm: norm(norm(x)),
    ],
)
def test_what_looks_alike_is_not_fused(build):
    _, report = fusion_case(build)
    assert report.count("replaced") == 1 and report.count("fused") == 0


def test_activation_before_the_addition_is_fused_without_it():
    converted, report = fusion_case(lambda x, norm: layers.ReLU()(norm(x)) + x)
    assert report.count("fused") == 1
    assert converted.get_layer("norm").activation is keras.activations.relu


def test_one_of_two_normalizations_takes_their_sum():
    def build(x, norm):
        other = layers.GroupNormalization(4, name="other")
        return layers.ReLU()(layers.Add()([other(x), norm(x)]))

    _, report = fusion_case(build)
    assert report.count("replaced") == 2 and report.count("fused") == 2


def test_fuse_off_keeps_every_layer():
    model = resnet(batch_norm)
    converted, report = convert(model, fuse=False)
    assert report.count("fused") == 0
    assert [layer.name for layer in converted.layers] == [layer.name for layer in model.layers]


def test_operation_that_gives_an_output_stays_and_keeps_its_name():
    inputs = keras.Input((4, 4, 8))
    x = layers.BatchNormalization(name="norm")(inputs)
    model = keras.Model(inputs, layers.ReLU(name="out")(x))
    converted, report = convert(model)
    assert converted.output_names == model.output_names == ["out"]
    assert report.count("fused") == 0


def test_normalization_whose_output_is_an_output_takes_nothing_in():
    inputs = keras.Input((4, 4, 8))
    x = layers.GroupNormalization(2)(inputs)
    model = randomize(keras.Model(inputs, [x, layers.Dense(2)(layers.ReLU()(x))]))
    converted, report = convert(model, weight_standardization=None)
    assert report.count("fused") == 0
    x = images(2, 4, 4, 8)
    for actual, expected in zip(converted(x), model(x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_mixed_precision_is_fused_and_an_addition_in_another_dtype_is_not():
    for dtype, fused in (("mixed_bfloat16", 1), ("float32", 0)):
        inputs = keras.Input((4, 4, 8))
        x = layers.Conv2D(8, 1, dtype="mixed_bfloat16")(inputs)
        y = layers.BatchNormalization(dtype="mixed_bfloat16", name="norm")(x)
        y = layers.Add(dtype=dtype)([x, y])
        converted, report = convert(keras.Model(inputs, layers.Dense(2)(y)))
        assert report.count("fused") == fused
        assert converted.get_layer("norm").compute_dtype == "bfloat16"
        assert converted(images(2, 4, 4, 8)).dtype == "float32"


# Normalizations


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("axis", [-1, 1])
def test_what_a_batch_normalization_carries_over(center, scale, axis):
    arguments = dict(axis=axis, epsilon=0.5, center=center, scale=scale, trainable=False)
    inputs = keras.Input((8, 4, 6) if axis == 1 else (4, 6, 8))
    norm = layers.BatchNormalization(
        name="norm", gamma_regularizer="l2", beta_constraint="non_neg", **arguments
    )
    converted, _ = convert(randomize(keras.Model(inputs, norm(inputs))), groups=4)
    new = converted.get_layer("norm")
    assert isinstance(new, Fused) and new.groups == 4
    assert {key: new.get_config()[key] for key in arguments} == arguments
    if scale:
        np.testing.assert_array_equal(new.gamma, norm.gamma)
        assert isinstance(new.gamma_regularizer, keras.regularizers.L2)
    if center:
        np.testing.assert_array_equal(new.beta, norm.beta)
        assert isinstance(new.beta_constraint, keras.constraints.NonNeg)
    assert (new.gamma is None, new.beta is None) == (not scale, not center)
    x = images(2, *inputs.shape[1:])
    y = layers.GroupNormalization(4, axis=axis, epsilon=0.5)(x)
    shape = [8 if i == axis % 4 else 1 for i in range(4)]
    y = y * (np.reshape(norm.gamma, shape) if scale else 1)
    y = y + (np.reshape(norm.beta, shape) if center else 0)
    np.testing.assert_allclose(converted(x), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "arguments", "groups", "reason"),
    [
        ((4, 4, 64), {}, 32, ""),
        ((4, 4, 32), {}, 32, "one channel per group"),
        ((4, 4, 24), {}, 24, "32 do not divide 24 channels; one channel per group"),
        ((4, 4, 48), {}, 24, "32 do not divide 48 channels"),
        ((4, 4, 37), {}, 1, "32 do not divide 37 channels"),
        ((4, 4, 24), {"groups": 8}, 8, ""),
        ((4, 4, 24), {"groups": 1}, 1, ""),
        ((4, 4, 24), {"groups": -1}, 24, ""),
        ((4, 4, 24), {"group_size": 8}, 3, ""),
        ((4, 4, 24), {"group_size": 16}, 2, "groups of 16 do not divide 24 channels"),
        ((None, None, 64), {}, 32, ""),
        ((64,), {}, 1, "one value per channel: a single group"),
        ((64,), {"groups": 1}, 1, ""),
        ((1, 1, 64), {"group_size": 2}, 1, "one value per channel: a single group"),
    ],
)
def test_groups(shape, arguments, groups, reason):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.BatchNormalization(name="norm")(inputs))
    converted, report = convert(model, **arguments)
    assert converted.get_layer("norm").groups == groups
    change = changes(report)["norm"]
    assert change.result == f"GroupNormalization, {groups} group" + "s" * (groups > 1)
    assert change.reason.startswith(reason) and bool(change.reason) == bool(reason)


def test_single_value_is_left():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layers.BatchNormalization(name="norm")(inputs))
    converted, report = convert(model)
    assert type(converted.get_layer("norm")) is layers.BatchNormalization
    assert "one value per sample" in changes(report)["norm"].reason


def test_layer_normalization_is_replaced_on_request_only():
    inputs = keras.Input((4, 4, 8))
    x = layers.LayerNormalization(name="norm")(inputs)
    x = layers.LayerNormalization(axis=(1, 2, 3), name="all")(x)
    x = layers.LayerNormalization(name="vector")(layers.GlobalAveragePooling2D()(x))
    model = randomize(keras.Model(inputs, x))
    converted, report = convert(model)
    np.testing.assert_array_equal(converted(images(2, 4, 4, 8)), model(images(2, 4, 4, 8)))
    assert report.count("kept") == 3 and "each position" in changes(report)["norm"].reason
    converted, report = convert(model, groups=2, layer_normalization=True)
    norm, old = converted.get_layer("norm"), model.get_layer("norm")
    assert isinstance(norm, Fused) and norm.groups == 2
    np.testing.assert_array_equal(norm.gamma, old.gamma)
    np.testing.assert_array_equal(norm.beta, old.beta)
    assert "all positions" in changes(report)["norm"].reason
    assert {change.name for change in report.changes if change.action == "kept"} == {
        "all",
        "vector",
    }


def test_epsilon_of_choice():
    converted, _ = convert(resnet(batch_norm), epsilon=1e-5)
    assert {layer.epsilon for layer in converted.layers if isinstance(layer, Fused)} == {1e-5}


# Convolutions


def after(layer, *following, shape=(8, 8, 4)):
    inputs = keras.Input(shape)
    x = layer(inputs)
    for other in following:
        x = other(x)
    return randomize(keras.Model(inputs, x))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv1D(8, 3, name="conv"), (8, 4)),
        (layers.Conv2D(8, 3, groups=2, activation="relu", name="conv"), (8, 8, 4)),
        (layers.Conv3D(8, 3, use_bias=False, name="conv"), (4, 4, 4, 4)),
        (layers.Conv1DTranspose(8, 3, name="conv"), (8, 4)),
        (layers.Conv2DTranspose(8, 3, strides=2, name="conv"), (8, 8, 4)),
        (layers.Conv3DTranspose(8, 3, name="conv"), (4, 4, 4, 4)),
        (layers.DepthwiseConv1D(3, name="conv"), (8, 4)),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, name="conv"), (8, 8, 4)),
        (layers.SeparableConv1D(8, 3, name="conv"), (8, 4)),
        (layers.SeparableConv2D(8, 3, name="conv"), (8, 8, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else "",
)
def test_every_convolution_is_standardized_with_its_own_weights(layer, shape):
    model = after(layer, layers.GroupNormalization(2, name="norm"), shape=shape)
    converted, report = convert(model, weight_standardization={"variant": "timm", "gain": True})
    wrapped = tfgn.layers.WeightStandardization(
        type(layer).from_config(layer.get_config()), "timm", name="by_hand"
    )
    wrapped.build((None, *shape))
    wrapped.layer.set_weights(layer.get_weights())
    x = images(2, *shape)
    y = model.get_layer("norm")(wrapped(x))
    np.testing.assert_allclose(converted(x), y, rtol=1e-3, atol=1e-4)
    assert changes(report)["conv"].action == "replaced"
    assert converted.get_layer("conv").use_gain


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda conv: after(conv), "leaves the model"),
        (lambda conv: after(conv, layers.Activation("sigmoid")), "leaves the model"),
        (lambda conv: after(conv, layers.Conv2D(2, 1), layers.BatchNormalization()), "next layer"),
        (lambda conv: after(conv, layers.Flatten(), layers.Dense(2)), "next layer"),
        (lambda conv: after(conv, layers.BatchNormalization()), None),
        (lambda conv: after(conv, layers.PReLU(), layers.BatchNormalization()), None),
        (lambda conv: after(conv, layers.MaxPooling2D(), layers.LayerNormalization()), None),
        (
            lambda conv: after(
                conv, keras.Sequential([layers.ReLU(), layers.BatchNormalization()])
            ),
            None,
        ),
        (lambda conv: after(conv, keras.Sequential([layers.Conv2D(4, 1)])), "next layer"),
        (lambda conv: after(keras.Sequential([conv]), layers.BatchNormalization()), None),
        (lambda conv: after(keras.Sequential([conv]), layers.Conv2D(2, 1)), "next layer"),
    ],
)
def test_only_convolutions_that_a_normalization_follows(model, reason):
    _, report = convert(model(layers.Conv2D(4, 3, name="conv")))
    (change,) = [c for name, c in changes(report).items() if name.endswith("conv")]
    assert (change.action == "replaced") == (reason is None)
    assert reason is None or reason in change.reason


def test_scaled_variants_need_no_normalization_but_leave_the_output():
    first, last = layers.Conv2D(4, 3, name="first"), layers.Conv2D(2, 1, name="last")
    _, report = convert(after(first, last), weight_standardization="nfnet")
    assert changes(report)["first"].action == "replaced"
    assert changes(report)["last"].action == "kept"


def test_every_path_must_meet_a_normalization():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    y = layers.BatchNormalization()(x)
    _, report = convert(keras.Model(inputs, layers.Concatenate()([x, y])))
    assert changes(report)["conv"].action == "kept"


def test_kernels_that_cannot_be_standardized():
    one_weight = layers.DepthwiseConv2D(1, name="one_weight")
    quantized = layers.Conv2D(4, 3, name="own_class")
    quantized.__class__ = type("Convolution", (layers.Conv2D,), {})
    done = tfgn.layers.StandardizedConv2D(4, 3, name="done")
    norms = [layers.BatchNormalization() for _ in range(3)]
    model = after(one_weight, norms[0], quantized, norms[1], done, norms[2])
    _, report = convert(model)
    assert "would be 0" in changes(report)["one_weight"].reason
    assert "Keras' own" in changes(report)["own_class"].reason
    assert "already" in changes(report)["done"].reason


def test_keep_by_name_and_by_function():
    model = resnet(batch_norm)
    for keep in (["stem", "norm0"], lambda layer: layer.name in ("stem", "norm0")):
        converted, report = convert(model, keep=keep)
        assert type(converted.get_layer("stem")) is layers.Conv2D
        assert type(converted.get_layer("norm0")) is layers.BatchNormalization
        assert report.count("replaced") == 10
        assert changes(report)["stem"].reason == "named in `keep`"


# Models of all kinds


def test_sequential_stays_sequential(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3),
            layers.GroupNormalization(2, name="norm"),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ],
        name="chain",
    )
    randomize(model)
    converted, report = convert(model, weight_standardization=None)
    assert type(converted) is keras.Sequential and converted.name == "chain"
    assert report.count("fused") == 1 and len(converted.layers) == 4
    np.testing.assert_allclose(converted(images()), model(images()), rtol=1e-4, atol=1e-5)
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images()), converted(images()))


def test_nested_and_shared_layers():
    norm = layers.GroupNormalization(2, name="shared")
    tower_in = keras.Input((8, 8, 4))
    x = layers.ReLU(name="tower_relu")(layers.GroupNormalization(2)(norm(tower_in)))
    tower = keras.Model(tower_in, x, name="tower")
    left, right = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
    head = keras.Sequential([layers.Conv2D(4, 3), layers.GroupNormalization(2)], name="head")
    x = layers.Concatenate()([tower(left), tower(right), layers.ReLU()(norm(left))])
    model = randomize(keras.Model([left, right], layers.Dense(2)(head(x))))
    converted, report = convert(model, weight_standardization=None)
    x = [images(2, 8, 8, 4, seed=i) for i in range(2)]
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    assert len(converted.weights) == len(model.weights)
    new_tower = converted.get_layer("tower")
    assert new_tower.get_layer("shared") is converted.get_layer("shared")
    # Within a nested model the last operation may be fused as well: no name is lost with it.
    assert changes(report)["tower/tower_relu"].action == "fused"
    assert converted.get_layer("head").name == "head"


def test_frozen_layers_stay_frozen_and_thawed_ones_thawed():
    backbone = resnet(batch_norm)
    backbone.trainable = False
    backbone.get_layer("norm0").trainable = True
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dense(2)(backbone(inputs)))
    converted, _ = convert(model)
    new = converted.get_layer("small")
    assert new.trainable is False and new.get_layer("norm0").trainable is True
    trainable = [{w.path for w in m.trainable_weights} for m in (model, converted)]
    assert trainable[0] == trainable[1] and len(trainable[0]) == 4


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.chain = [layers.Conv2D(filters, 3, padding="same", name="conv"), make_norm("norm")]
        self.parts = {"scale": layers.Dense(filters, name="scale")}
        self._private = make_norm("private")

    def call(self, x, training=None):
        y = x
        for layer in self.chain:
            y = layer(y)
        return x + self._private(self.parts["scale"](y))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(filters, 3, name="stem")
        self.block = Block(filters, name="block")
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.block(self.stem(x)))

    def get_config(self):
        return {**super().get_config(), "filters": self.block.filters}


class WithoutConfig(Subclassed):
    def get_config(self):
        return keras.Model.get_config(self)


def make_norm(name):
    return layers.GroupNormalization(2, name=name)


def test_subclassed_model(tmp_path):
    model = Subclassed(8, name="mine")
    model(images())
    randomize(model)
    model.compile("sgd", "mse")
    converted, report = convert(model, weight_standardization=None)
    assert type(converted) is Subclassed and converted.name == "mine" and converted.compiled
    assert isinstance(converted.block.chain[1], Fused)
    assert isinstance(converted.block._private, Fused)
    assert changes(report)["block/norm"].action == "replaced"
    np.testing.assert_allclose(converted(images()), model(images()), rtol=1e-4, atol=1e-5)
    assert len(converted.trainable_weights) == len(model.trainable_weights)
    _, report = convert(model)
    assert changes(report)["block/conv"].action == "replaced"
    assert "taken to be" in changes(report)["block/conv"].reason


def test_functional_subclass_with_a_constructor_of_its_own():
    class Named(keras.Model):
        def __init__(self, filters):
            inputs = keras.Input((8, 8, 3))
            x = layers.GroupNormalization(2)(layers.Conv2D(filters, 3)(inputs))
            super().__init__(inputs, layers.Dense(2)(layers.ReLU()(x)), name="mine")

    model = randomize(Named(4))
    converted, report = convert(model, weight_standardization=None)
    np.testing.assert_allclose(converted(images()), model(images()), rtol=1e-4, atol=1e-5)
    assert changes(report)["mine"].result == "Functional"


def test_subclassed_layer_in_a_functional_model():
    inputs = keras.Input((8, 8, 4))
    x = Block(4, name="block")(inputs)
    x = layers.Reshape((64, 4))(x)
    x = layers.MultiHeadAttention(2, 2)(x, x)
    model = randomize(keras.Model(inputs, x))
    converted, _ = convert(model, weight_standardization=None)
    x = images(2, 8, 8, 4)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    assert isinstance(converted.get_layer("block").chain[1], Fused)


def test_layers_made_in_build_are_out_of_reach_and_said_to_be():
    class Late(layers.Layer):
        def build(self, shape):
            self.norm = make_norm("late")
            self.norm.build(shape)

        def call(self, x):
            return self.norm(x)

    inputs = keras.Input((8, 8, 4))
    model = randomize(keras.Model(inputs, Late(name="maker")(inputs)))
    converted, report = convert(model)
    assert "out of reach" in changes(report)["maker/late"].reason
    np.testing.assert_array_equal(converted(images(2, 8, 8, 4)), model(images(2, 8, 8, 4)))


def test_time_distributed_layers():
    inputs = keras.Input((3, 8, 8, 4))
    x = layers.TimeDistributed(layers.Conv2D(8, 3, name="conv"))(inputs)
    x = layers.TimeDistributed(layers.GroupNormalization(2, name="norm"))(x)
    model = randomize(keras.Model(inputs, x))
    _, report = convert(model)
    assert {change.action for change in report.changes} == {"replaced"}
    converted, _ = convert(model, weight_standardization=None)
    x = images(2, 3, 8, 8, 4)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [{}, {"training": False}])
def test_recorded_masks_and_training_flags(training):
    inputs = keras.Input((None, 8))
    x = layers.Masking()(inputs)
    x = layers.BatchNormalization(name="norm")(x, **training)
    model = keras.Model(inputs, layers.LSTM(3)(x))
    converted, _ = convert(model, groups=2)
    x = images(2, 5, 8)
    x[:, 3:] = 0
    y = layers.GroupNormalization(2)(layers.Masking()(x))
    np.testing.assert_allclose(converted(x), model.layers[-1](y), rtol=1e-4, atol=1e-5)


def test_layers_with_state_of_their_own():
    normalization = layers.Normalization()
    normalization.adapt(5 * images(64, 4, 4, 3) + 7)
    inputs = keras.Input((4, 4, 3))
    x = layers.Lambda(lambda x: 2 * x)(layers.Rescaling(3.0)(normalization(inputs)))
    model = keras.Model(inputs, layers.GroupNormalization(3)(x))
    converted, _ = convert(model)
    x = images(2, 4, 4, 3)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)


def test_compiled_models_train_on_and_outputs_keep_their_structure():
    inputs = {"image": keras.Input((8, 8, 3), name="image")}
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs["image"])))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = {"a": layers.Dense(1, name="a")(x), "b": layers.Dense(2, name="b")(x)}
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(1e-3), {"a": "mse", "b": "mse"})
    converted, _ = convert(model)
    assert converted.optimizer is not model.optimizer
    targets = {"a": np.zeros((2, 1)), "b": np.zeros((2, 2))}
    history = converted.fit({"image": images()}, targets, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


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
    ("arguments", "message"),
    [
        ({"norm": "bn"}, "`norm` must be 'gn' or None. Received: norm='bn'"),
        ({"groups": 0}, "`groups` must be a positive integer or -1. Received: groups=0"),
        ({"groups": 2.0}, "`groups` must be.*groups=2.0"),
        ({"group_size": 0}, "`group_size` must be None or a positive.*group_size=0"),
        ({"groups": 4, "group_size": 4}, "either `groups` or `group_size`.*groups=4, group_size=4"),
        ({"weight_standardization": "ws"}, "`weight_standardization`: `variant` must be one of"),
        ({"weight_standardization": {"gain": True}}, "has the key 'variant'"),
        ({"keep": ["stam"]}, "'stam' is the name of none; close are 'stem'"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfgn.convert(resnet(batch_norm), **arguments)


def test_models_that_cannot_be_converted():
    with pytest.raises(TypeError, match="must be a keras.Model"):
        tfgn.convert(layers.Dense(2))
    with pytest.raises(ValueError, match="must be built.*'bare'"):
        tfgn.convert(keras.Sequential([layers.Dense(2)], name="bare"))
    with pytest.raises(ValueError, match="must be built"):
        tfgn.convert(Subclassed(8))
    model = WithoutConfig(8, name="mine")
    model(images())
    with pytest.raises(ValueError, match="The WithoutConfig 'mine' cannot be copied"):
        tfgn.convert(model)
