"""GroupNormalization on inputs, residuals and policies of all dtypes, against float64."""

import itertools

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from tensorflow_groupnorm.layers import GroupNormalization, _group_normalization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
POLICIES = (*FLOATS, "mixed_float16", "mixed_bfloat16")
# Half a unit in the last place, relative to the value.
ROUNDING = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}
SHAPE = (2, 7, 16)


def values(dtype, seed=0):
    x = np.random.default_rng(seed).normal(1, 3, SHAPE)
    return tf.cast(x > 0, "bool") if dtype == "bool" else tf.cast(tf.abs(x) * 5, dtype)


def array(x):
    return np.asarray(tf.cast(x, "float64"))


def make(policy):
    layer = GroupNormalization(4, dtype=policy, epsilon=2**-10, activation="silu")
    layer.build(SHAPE)
    weights = layer.get_weights()
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape) for w in weights])
    return layer


def exact(layer, x, residual=None):
    result = reference.group_norm(
        *(array(t) for t in (x, layer.gamma.value, layer.beta.value)),
        None if residual is None else array(residual),
        groups=layer.groups,
        axis=-1,
        epsilon=2**-10,
        activation="silu",
    )
    return result.y.astype(np.float64)


def assert_rounded_once(y, expected, arithmetic):
    """As near as the arithmetic and one rounding to the dtype of the result allow."""
    dtype = y.dtype if isinstance(y.dtype, str) else y.dtype.name
    bound = 40 * ROUNDING[arithmetic] * (1 + np.abs(expected)) + ROUNDING[dtype] * np.abs(expected)
    # A float16 has no smaller step than 2^-24.
    assert np.all(np.abs(array(y) - expected) <= bound + 2.0**-25 * (dtype == "float16"))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_inputs(dtype, policy):
    layer, x = make(policy), values(dtype)
    y = layer(x)
    assert y.dtype == layer.compute_dtype
    wide = "float64" in (dtype, policy)
    assert_rounded_once(y, exact(layer, x), "float64" if wide else "float32")
    inputs = keras.Input(SHAPE[1:], dtype=dtype)
    assert keras.Model(inputs, layer(inputs)).output.dtype == layer.compute_dtype


@pytest.mark.parametrize("policy", POLICIES)
def test_dtype_of_the_result_is_that_of_keras_own_layers(policy):
    for dtype in FLOATS:
        x, dtypes = values(dtype), set()
        for cls in (
            GroupNormalization,
            keras.layers.GroupNormalization,
            keras.layers.BatchNormalization,
        ):
            arguments = {} if cls is keras.layers.BatchNormalization else {"groups": 4}
            dtypes.add(cls(dtype=policy, **arguments)(x).dtype.name)
        assert len(dtypes) == 1


@pytest.mark.parametrize("dtype, gamma", [("float16", 1e5), ("bfloat16", 1e5), ("uint8", 1e5)])
def test_results_that_overflow_the_dtype_of_the_inputs(dtype, gamma):
    x = values(dtype)
    layers = [
        keras.layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(gamma)),
        GroupNormalization(4, gamma_initializer=keras.initializers.Constant(gamma)),
    ]
    for layer in layers:
        assert np.isfinite(array(layer(x))).all()
    assert np.abs(array(layers[1](x))).max() > 65504


@pytest.mark.parametrize(
    "policy, dtypes",
    [
        ("float32", ("float64", "float16", "bfloat16", "uint8", "int32", "bool")),
        ("float64", ("float32", "float16", "int64")),
        ("mixed_float16", ("float32", "bfloat16", "float64", "uint8")),
        ("mixed_bfloat16", ("float32", "float16", "uint16")),
        ("float16", ("float32", "int32")),
    ],
)
def test_residuals(policy, dtypes):
    layer = make(policy)
    for one, other in itertools.product(dtypes, (layer.compute_dtype, *dtypes)):
        for dtype, residual_dtype in ((one, other), (other, one)):
            x, residual = values(dtype), values(residual_dtype, seed=3)
            y = layer(x, residual=residual)
            assert y.dtype == layer.compute_dtype
            wide = "float64" in (dtype, residual_dtype, policy)
            assert_rounded_once(y, exact(layer, x, residual), "float64" if wide else "float32")


def test_residual_from_an_input_under_mixed_precision():
    inputs = keras.Input((8, 8, 16))
    norm = GroupNormalization(4, dtype="mixed_float16", activation="relu")
    x = keras.layers.Conv2D(16, 1, dtype="mixed_float16")(inputs)
    model = keras.Model(inputs, norm(x, residual=inputs))
    assert x.dtype == model.output.dtype == "float16"
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 16))
    with tf.GradientTape() as tape:
        y = model(images)
        loss = tf.reduce_mean(tf.cast(y, "float32"))
    expected = norm(tf.cast(model.layers[1](images), "float32"), residual=images)
    np.testing.assert_allclose(array(y), array(expected), atol=2e-3)
    assert all(np.isfinite(g).all() for g in tape.gradient(loss, model.trainable_variables))


def test_gradients_are_in_the_dtypes_of_the_inputs():
    layer = GroupNormalization(4, activation="silu", dtype="mixed_bfloat16")
    x, residual = values("float16"), values("float32", seed=2)
    with tf.GradientTape() as tape:
        tape.watch([x, residual])
        y = layer(x, residual=residual)
    gradients = tape.gradient(y, [x, residual])
    assert [g.dtype for g in gradients] == ["float16", "float32"]
    wide = tf.cast(x, "float32")
    with tf.GradientTape() as tape:
        tape.watch(wide)
        y = GroupNormalization(4, activation="silu")(wide, residual=residual)
    np.testing.assert_allclose(array(gradients[0]), array(tape.gradient(y, wide)), atol=2e-2)


@pytest.mark.parametrize(
    "policy, dtype", [("mixed_float16", "float16"), ("float32", "float32"), ("float64", "float64")]
)
def test_nothing_is_cast_where_all_agree(policy, dtype, monkeypatch):
    layer = GroupNormalization(4, dtype=policy)
    x, residual = values(dtype), values(dtype, seed=1)
    layer.build(SHAPE)
    calls = []

    def group_norm(x, *_, residual, **__):
        calls.append((x, residual))
        return x

    monkeypatch.setattr(_group_normalization.fused, "group_norm", group_norm)
    assert layer(x, residual=residual) is x
    ((given, side),) = calls
    assert given is x and side is residual


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_are_refused(dtype):
    x, z = tf.ones(SHAPE), tf.zeros(SHAPE, dtype)
    for call in (lambda: GroupNormalization(4)(z), lambda: GroupNormalization(4)(x, residual=z)):
        with pytest.raises(ValueError, match=f"real numbers.*{dtype}"):
            call()
