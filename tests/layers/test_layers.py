"""GroupNormalization as a Keras user meets it: drop-in, saved, loaded, mixed precision, misuse."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow_groupnorm.layers import GroupNormalization, _common, _group_normalization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Stock = keras.layers.GroupNormalization


def images(shape=(2, 6, 5, 16), dtype="float32", seed=0):
    return tf.cast(np.random.default_rng(seed).normal(0.5, 2, shape), dtype)


def randomize(layer_or_model):
    rng = np.random.default_rng(1)
    layer_or_model.set_weights([rng.normal(size=w.shape) for w in layer_or_model.get_weights()])


def array(x):
    return np.asarray(tf.cast(x, "float64"))


def assert_bit_equal(actual, expected):
    actual, expected = (np.asarray(tf.convert_to_tensor(t)) for t in (actual, expected))
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.fixture(params=["ops", "stock"])
def each_implementation(request, monkeypatch):
    """Runs a test on `tfgn.ops` and on the stock ops that stand in where it has no library."""
    if request.param == "stock":
        monkeypatch.setattr(_group_normalization, "fused", tfgn.stock)


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_equals_the_stock_layer_and_its_gradients(axis):
    shape = [2, 6, 5, 4]
    shape[axis] = 16
    x = images(shape)
    for center, scale in itertools.product((True, False), repeat=2):
        arguments = dict(groups=4, axis=axis, epsilon=1e-2, center=center, scale=scale)
        layers = [cls(**arguments) for cls in (GroupNormalization, Stock)]
        results = []
        for layer in layers:
            layer.build(shape)
            randomize(layer)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
                loss = tf.reduce_sum(tf.sin(y))
            results.append([y, *tape.gradient(loss, [x, *layer.trainable_variables])])
        for ours, keras_own in zip(*results, strict=True):
            np.testing.assert_allclose(ours, keras_own, rtol=2e-5, atol=2e-5)


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize("activation", [None, "relu", "silu", "swish", "gelu"])
def test_activation_and_residual(activation):
    x, residual = images(), images(seed=2)
    layer = GroupNormalization(4, activation=activation)
    plain = GroupNormalization(4)(x)
    function = keras.activations.get(activation)
    np.testing.assert_allclose(layer(x), function(plain), atol=1e-5)
    np.testing.assert_allclose(layer(x, residual=residual), function(plain + residual), atol=1e-5)


def test_residual_in_a_functional_model():
    inputs = keras.Input((None, None, 8))
    shortcut = keras.layers.Conv2D(8, 1)(inputs)
    outputs = GroupNormalization(4, activation="relu")(inputs, residual=shortcut)
    model = keras.Model(inputs, outputs)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    x = images((2, 4, 4, 8))
    assert_bit_equal(clone(x), model(x))
    assert outputs.shape == (None, None, None, 8)
    without = keras.Model(inputs, model.layers[-1](inputs))
    assert np.abs(array(model(x)) - array(without(x))).max() > 0.1


def test_group_size():
    x = images()
    layer = GroupNormalization(group_size=2)
    assert_bit_equal(layer(x), GroupNormalization(8)(x))
    assert layer.groups == 8
    # The same config serves another number of channels.
    other = GroupNormalization.from_config(layer.get_config())
    assert other(images((2, 4, 6))).shape == (2, 4, 6) and other.groups == 3


@pytest.mark.parametrize("group_size", [0, -1, 2.0, "4"])
def test_group_size_must_be_a_positive_integer(group_size):
    with pytest.raises(ValueError, match=f"`group_size`.*{group_size!r}"):
        GroupNormalization(group_size=group_size)


def test_group_size_and_groups_exclude_each_other():
    with pytest.raises(ValueError, match="either `groups` or `group_size`.*groups=8, group_size=2"):
        GroupNormalization(8, group_size=2)
    # The default number, given: not taken for "not given".
    with pytest.raises(ValueError, match="either `groups` or `group_size`.*groups=32"):
        GroupNormalization(groups=32, group_size=2)


def test_groups_none():
    assert GroupNormalization(None).groups == GroupNormalization().groups == 32
    assert GroupNormalization(None).get_config()["groups"] == 32
    layer = GroupNormalization(groups=None, group_size=8)
    layer.build((None, 4, 32))
    assert layer.groups == 4


def test_integers_of_numpy():
    one, two = np.int64(-1), np.int32(2)
    layers = GroupNormalization(two, axis=one), GroupNormalization(group_size=two, axis=one)
    for layer in layers:
        layer.build((None, 4, 8))
        config = layer.get_config()
        assert type(config["axis"]) is int and {type(config["groups"])} <= {int, type(None)}
    assert [layer.groups for layer in layers] == [2, 4]


def test_config_of_version_0_1_0():
    config = GroupNormalization(group_size=2).get_config() | {"groups": 32}
    assert GroupNormalization.from_config(config).group_size == 2


def test_groups_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="`groups` must divide.*groups=3 for 16 channels"):
        GroupNormalization(3)(images())
    with pytest.raises(ValueError, match="`group_size` must divide.*group_size=3 for 16 channels"):
        GroupNormalization(group_size=3)(images())
    with pytest.raises(ValueError, match="groups.*32.*cannot be more than.*16"):
        GroupNormalization()(images())


def test_groups_minus_one_is_instance_normalization():
    x = images()
    layer = GroupNormalization(-1)
    y = array(layer(x))
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((1, 2)), 1, atol=1e-2)
    assert layer.groups == 16
    again = GroupNormalization.from_config(layer.get_config())
    again.build((None, 4, 8))
    assert again.groups == 8


def test_configs_move_between_stock_and_ours():
    ours = GroupNormalization(4, epsilon=1e-5, scale=False, beta_initializer="ones", name="norm")
    stock = Stock(4, epsilon=1e-5, scale=False, beta_initializer="ones", name="norm")
    assert ours.get_config() == stock.get_config()
    assert Stock.from_config(ours.get_config()).get_config() == stock.get_config()
    assert GroupNormalization.from_config(stock.get_config()).get_config() == stock.get_config()
    for layer in (ours, stock):
        layer.build((None, 8))
    assert ours.get_config() == stock.get_config()


def test_config_of_the_new_arguments():
    layer = GroupNormalization(group_size=2, activation="silu", axis=1)
    for _ in range(2):
        config = layer.get_config()
        assert (config["group_size"], config["activation"], config["groups"]) == (2, "silu", None)
        layer = GroupNormalization.from_config(config)
        layer.build((None, 6, 4))


@pytest.mark.slow
def test_keras_file_loads_after_the_import_alone(tmp_path, run_python):
    inputs = keras.Input((None, None, 3))
    x = tfgn.layers.StandardizedConv2D(8, 3, padding="same", variant="nfnet", gain=True)(inputs)
    x = GroupNormalization(-1, name="instance")(x)
    y = tfgn.layers.WeightStandardization(keras.layers.Conv2D(8, 3, padding="same"), "qiao")(x)
    y = GroupNormalization(group_size=2, activation="relu", name="fused")(y, residual=x)
    model = keras.Model(inputs, GroupNormalization(4, epsilon=1e-5, scale=False)(y))
    randomize(model)
    x = images((2, 7, 6, 3))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_bit_equal(loaded(x), model(x))
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    assert loaded.get_layer("fused").group_size == 2
    assert loaded.get_layer("instance").get_config()["groups"] == -1
    np.savez(tmp_path / "io.npz", x=x, y=model(x))
    run = run_python(
        "import os, numpy as np, keras, tensorflow_groupnorm\n"
        "os.chdir(os.environ['WHERE'])\n"
        "io = np.load('io.npz')\n"
        "model = keras.saving.load_model('model.keras')\n"
        "np.testing.assert_array_equal(model(io['x']), io['y'])",
        WHERE=str(tmp_path),
    )
    assert run.returncode == 0, run.stderr


def stock_or_ours(cls):
    return keras.Sequential(
        [
            keras.Input((6, 5, 3)),
            keras.layers.Conv2D(8, 3),
            cls(4, name="first"),
            keras.layers.Conv2D(8, 3),
            cls(2, scale=False, name="second"),
        ]
    )


def test_weights_files_move_between_stock_and_ours(tmp_path):
    path, x = tmp_path / "model.weights.h5", images((2, 6, 5, 3))
    for source, target in ((Stock, GroupNormalization), (GroupNormalization, Stock)):
        source, target = stock_or_ours(source), stock_or_ours(target)
        randomize(source)
        source.save_weights(path)
        target.load_weights(path)
        for name in ("first", "second"):
            a, b = source.get_layer(name), target.get_layer(name)
            assert [w.name for w in a.weights] == [w.name for w in b.weights]
            for v, w in zip(a.weights, b.weights, strict=True):
                assert_bit_equal(v.value, w.value)
        np.testing.assert_allclose(source(x), target(x), atol=1e-5)


def test_saved_model_round_trips(tmp_path):
    inputs = keras.Input((None, None, 8))
    x = GroupNormalization(-1)(inputs)
    y = GroupNormalization(group_size=2, activation="silu")(x, residual=inputs)
    model = keras.Model(inputs, GroupNormalization(4, scale=False)(y))
    randomize(model)
    x = images((3, 7, 6, 8))
    expected = tf.function(model)(x)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    assert_bit_equal(exported.serve(x), expected)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    assert_bit_equal(saved.signatures["serving_default"](x)["output_0"], expected)


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    low = policy.removeprefix("mixed_")
    layer = GroupNormalization(4, dtype=policy, activation="silu")
    stock = Stock(4, dtype=policy)
    for dtype in ("float32", low):
        x = images((2, 40, 30, 16), dtype) * 10 + 1000
        y = layer(x, residual=x)
        assert y.dtype == low
        assert [w.dtype for w in layer.weights] == 2 * ["float32"]
        # Statistics of the stored values in float64, one rounding at the end.
        exact = keras.activations.silu(Stock(4, dtype="float64")(array(x)) + array(x))
        np.testing.assert_allclose(array(y), array(exact), rtol=2e-2 if low == "bfloat16" else 2e-3)
        assert y.dtype == stock(x).dtype
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer(x), "float32"))
    for gradient in tape.gradient(loss, layer.trainable_variables):
        assert gradient.dtype == "float32" and np.all(np.isfinite(gradient))


@pytest.mark.usefixtures("each_implementation")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_pure_dtype_policies(dtype):
    x = images(dtype=dtype)
    layer, stock = (cls(4, dtype=dtype) for cls in (GroupNormalization, Stock))
    y = layer(x)
    assert y.dtype == dtype
    tolerance = {"float16": 4e-3, "bfloat16": 4e-2, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(array(y), array(stock(x)), atol=tolerance)


def test_integer_inputs_are_normalized_in_float32():
    x = np.arange(32).reshape(1, 2, 2, 8)
    y = GroupNormalization(2)(x)
    assert y.dtype == "float32"
    assert_bit_equal(y, GroupNormalization(2)(x.astype("float32")))


def test_unknown_dimensions():
    layer = GroupNormalization(4)
    x = images()
    expected = layer(x)
    traced = tf.function(
        layer, input_signature=[tf.TensorSpec([None, None, None, 16])], autograph=False
    )
    assert_bit_equal(traced(x), expected)
    assert traced(images((0, 6, 5, 16))).shape == (0, 6, 5, 16)
    model = keras.Sequential([keras.Input((None, None, 16)), GroupNormalization(4)])
    assert model.output_shape == (None, None, None, 16)
    assert_bit_equal(tf.function(model)(x), expected)


def test_mask_is_passed_on():
    x = images((2, 5, 8)).numpy()
    x[:, 3:] = 0
    masked = GroupNormalization(2)(keras.layers.Masking()(x))
    np.testing.assert_array_equal(masked._keras_mask, [[1, 1, 1, 0, 0]] * 2)
    mask = tf.constant([[True, False, True, True, False]] * 2)
    y = GroupNormalization(2)(x, mask=mask)
    assert_bit_equal(y, GroupNormalization(2)(x))
    np.testing.assert_array_equal(y._keras_mask, mask)


def test_takes_the_place_of_a_layer_that_records_a_mask():
    inputs = keras.Input((None, 8))
    x = keras.layers.Masking()(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.LSTM(3)(x))

    def replace(layer):
        if isinstance(layer, keras.layers.BatchNormalization):
            return GroupNormalization(2, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    converted = keras.models.clone_model(model, clone_function=replace)
    again = keras.models.clone_model(converted)
    again.set_weights(converted.get_weights())
    x = images((2, 5, 8))
    assert isinstance(again.get_layer("norm"), GroupNormalization)
    assert_bit_equal(again(x), converted(x))


def test_supports_jit_says_what_the_ops_can(monkeypatch):
    for library, error, expected in ((None, "a", True), ("lib", "a", False), ("lib", None, True)):
        monkeypatch.setattr(_common._library, "load", lambda library=library: library)
        monkeypatch.setattr(_common._library, "xla_error", lambda error=error: error)
        assert GroupNormalization().supports_jit is expected


def test_second_order_gradients():
    x = images((2, 5, 8))
    stock = Stock(4)
    stock.build(x.shape)
    randomize(stock)
    layer = GroupNormalization(4, activation="silu")
    layer.build(x.shape)
    layer.set_weights(stock.get_weights())

    def gradient_of_gradient(f, gamma):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.square(f(x)))
            norm = tf.reduce_sum(tf.square(tape.gradient(loss, x)))
        return outer.gradient(norm, [x, gamma.value])

    expected = gradient_of_gradient(lambda x: keras.activations.silu(stock(x)), stock.gamma)
    for a, b in zip(gradient_of_gradient(layer, layer.gamma), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", ["full", "activations"])
def test_rematerialization(mode):
    x = images()
    with keras.RematScope(mode=mode):
        layer = GroupNormalization(4, activation="silu")
    plain = GroupNormalization(4, activation="silu")
    for each in (layer, plain):
        each.build(x.shape)

    @tf.function
    def gradient(layer):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(layer(x, residual=x) + layer(x)))
        return tape.gradient(loss, x)

    np.testing.assert_allclose(gradient(layer), gradient(plain), atol=1e-5)


def test_on_another_keras_backend(monkeypatch):
    x = images()
    expected = Stock(4)(x) + x
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    y = GroupNormalization(4, activation="relu")(x, residual=x)
    np.testing.assert_allclose(y, tf.nn.relu(expected), atol=1e-5)
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow.*KERAS_BACKEND=jax"):
        tfgn.layers.StandardizedConv2D(8, 3)
