"""GroupNormalization that leaves masked positions out of its statistics."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow_groupnorm import stock
from tensorflow_groupnorm.layers import GroupNormalization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LENGTHS = (5, 9, 2, 0)
STEPS = 9
EPSILON = 2.0**-10


def sequences(channels=8, seed=0, mean=1.0, between=()):
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 2, (len(LENGTHS), STEPS, *between, channels)).astype("float32")


def mask_of(lengths=LENGTHS, steps=STEPS):
    return np.arange(steps) < np.array(lengths)[:, np.newaxis]


def expected(x, mask, groups, axis, epsilon=EPSILON):
    """Each sample and group by itself in float64; `mask` in the shape of `x`."""
    x, mask = np.asarray(x, np.float64), np.broadcast_to(mask, x.shape)
    y = np.zeros_like(x)
    for n, channels in itertools.product(range(len(x)), np.split(np.arange(x.shape[axis]), groups)):
        of_axis = np.isin(np.arange(x.shape[axis]), channels)
        shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        chosen = mask[n] & np.reshape(of_axis, shape[1:] if axis % x.ndim else shape)
        if chosen.any():
            values = x[n][chosen]
            y[n][chosen] = (values - values.mean()) / np.sqrt(values.var() + epsilon)
    return y


def results(layer, mask, sources, **given):
    """The result, and the gradients of an unmasked loss."""
    sources = {name: tf.convert_to_tensor(t) for name, t in sources.items()}
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y = layer(mask=mask, **sources, **given)
        loss = tf.reduce_sum(tf.sin(tf.cast(y, "float32") + 1))
    gradients = tape.gradient(loss, {"weights": layer.trainable_variables, **sources})
    return tf.nest.flatten([y, gradients])


@pytest.mark.parametrize("function", [tfgn.group_norm, stock.group_norm])
@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize(
    "shape, axis, mask_shape",
    [
        ((4, 9, 8), -1, (4, 9)),
        ((4, 9, 8), 2, (4,)),
        ((4, 9, 8), -1, (4, 9, 1)),
        ((4, 9, 8), -1, (4, 9, 8)),
        ((4, 8, 9), 1, (4, 9)),
        ((4, 8, 9), 1, (4, 1, 9)),
        ((4, 9, 3, 5, 8), -1, (4, 9)),
        ((4, 9, 3, 5, 8), -1, (4, 9, 3, 5)),
        ((4, 9, 3, 5, 8), -1, (4, 1, 3, 1)),
        ((4, 9, 8, 3), 2, (4, 9, 3)),
        ((4, 8), -1, (4,)),
        ((4, 8), -1, (4, 8)),
        ((4, 9, 8), -1, (1, 9)),
    ],
)
def test_values(function, mean, shape, axis, mask_shape):
    rng = np.random.default_rng(0)
    x = rng.normal(mean, 1, shape).astype("float32")
    mask = rng.random(mask_shape) < 0.6
    full = mask
    if mask.ndim < x.ndim:
        sizes = iter(mask_shape)
        full = mask.reshape([1 if i == axis % x.ndim else next(sizes, 1) for i in range(x.ndim)])
    y = function(x, groups=2, axis=axis, epsilon=EPSILON, mask=mask)
    exact = expected(x, full, 2, axis)
    # The bound of the fused op; the few elements of a group can have a small deviation.
    bound = 2.0**-24 * (8 * (1 + mean) * 32 + 2 * np.abs(exact))
    assert np.all(np.abs(y - exact) <= bound)
    layer = GroupNormalization(2, axis=axis, epsilon=EPSILON, use_mask=True)
    np.testing.assert_array_equal(layer(x, mask=mask), y)


def test_a_mask_that_masks_nothing_is_no_mask():
    x = sequences()
    layer = GroupNormalization(2, use_mask=True)
    np.testing.assert_allclose(layer(x, mask=mask_of([STEPS] * 4)), layer(x), atol=1e-6)
    np.testing.assert_array_equal(layer(x), GroupNormalization(2)(x))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_garbage_in_masked_positions_changes_nothing(policy, activation, jit):
    layer = GroupNormalization(2, activation=activation, dtype=policy, use_mask=True)
    mask = mask_of()
    sources = {"inputs": sequences(), "residual": sequences(seed=1)}
    sources = {name: tf.cast(t, layer.compute_dtype) for name, t in sources.items()}
    rng = np.random.default_rng(2)
    given = {name: rng.normal(size=(4, 8)).astype("float32") for name in ("scale", "shift")}
    layer.build(sources["inputs"].shape)
    run = tf.function(results, jit_compile=jit, autograph=False)
    clean = run(layer, mask, sources | given)
    for garbage in (np.nan, np.inf, -6e4):
        spoiled = {
            name: tf.where(mask[..., np.newaxis], t, tf.cast(garbage, t.dtype))
            for name, t in sources.items()
        }
        for ours, theirs in zip(run(layer, mask, spoiled | given), clean, strict=True):
            assert np.isfinite(tf.cast(ours, "float32")).all()
            np.testing.assert_array_equal(ours, theirs)
    y, dx = clean[0], clean[1 + [*sorted(sources | given)].index("inputs")]
    assert dx.shape == y.shape
    assert not np.any(y[~mask]) and not np.any(dx[~mask])
    assert np.all(np.any(dx[mask], axis=-1))


@pytest.mark.parametrize("epsilon", [1e-3, 0.0])
def test_samples_without_any_position(epsilon):
    layer = GroupNormalization(2, epsilon=epsilon, use_mask=True)
    x, mask = sequences(), mask_of([0, 9, 0, 0])
    layer.build(x.shape)
    for result in results(layer, mask, {"inputs": x}):
        assert np.isfinite(result).all()
    y = layer(x, mask=mask)
    assert not np.any(y[0]) and np.any(y[1])


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("with_residual", [False, True])
def test_padded_equals_unpadded(axis, with_residual):
    """Sample by sample: values, and the gradients of weights, inputs and residuals."""
    layer = GroupNormalization(2, axis=axis, activation="silu", use_mask=True)
    sources = {"inputs": sequences()}
    if with_residual:
        sources["residual"] = sequences(seed=1)
    layer.build((None, STEPS, 8) if axis == -1 else (None, 8, STEPS))
    layer.set_weights([np.random.default_rng(3).normal(size=8) for _ in range(2)])

    def move(t):
        return t if axis == -1 else np.swapaxes(t, 1, 2)

    mask = mask_of()
    padded = results(layer, mask, {k: move(t) for k, t in sources.items()})
    weights = 0
    for n, length in enumerate(LENGTHS):
        if not length:
            continue
        alone = results(layer, None, {k: move(t[n : n + 1, :length]) for k, t in sources.items()})
        y, *rest = alone
        of_weights, of_sources = rest[-2:], rest[:-2]
        weights = [w + g for w, g in zip(weights or [0, 0], of_weights, strict=True)]
        for ours, theirs in zip(padded[:-2], [y, *of_sources], strict=True):
            np.testing.assert_allclose(move(ours)[n, :length], move(theirs)[0], atol=1e-5)
    for ours, theirs in zip(padded[-2:], weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def model_of(steps, **arguments):
    inputs = keras.Input((steps, 8))
    x = keras.layers.Masking()(inputs)
    x = GroupNormalization(2, activation="relu", name="first", use_mask=True, **arguments)(x)
    y = keras.layers.Conv1D(8, 3, padding="same", use_bias=False, name="conv")(x)
    # Conv1D passes no mask on.
    y = GroupNormalization(group_size=2, use_mask=True, name="second")(
        y, residual=x, mask=keras.ops.any(keras.ops.not_equal(inputs, 0), -1)
    )
    y = keras.layers.Dense(3, name="dense", use_bias=False)(y)
    return keras.Model(inputs, y)


@pytest.mark.filterwarnings("ignore:Layer 'conv'.*does not support masking:UserWarning")
def test_padded_batch_in_a_model():
    model = model_of(None)
    model.set_weights(
        [np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(model.get_weights())]
    )
    x, mask = sequences(), mask_of()
    x[~mask] = 0
    padded = model(x)
    for n, length in enumerate(LENGTHS[:3]):
        alone = model(x[n : n + 1, :length])
        np.testing.assert_allclose(padded[n, :length], alone[0], atol=1e-5)
    longer = np.pad(x, [(0, 0), (0, 4), (0, 0)])
    np.testing.assert_allclose(model(longer)[:, :STEPS], padded, atol=1e-5)
    plain = keras.models.clone_model(
        model,
        clone_function=lambda layer: layer.from_config(
            {k: v for k, v in layer.get_config().items() if k != "use_mask"}
        ),
    )
    plain.set_weights(model.get_weights())
    assert np.abs(plain(longer)[:, :STEPS] - plain(x)).max() > 0.1


def test_the_attached_mask_is_found_beside_a_residual_and_passed_on():
    inputs, shortcut = keras.Input((STEPS, 8)), keras.Input((STEPS, 8))
    x = keras.layers.Masking()(inputs)
    y = GroupNormalization(2, use_mask=True)(x, residual=shortcut)
    assert y._keras_mask is not None
    model = keras.Model([inputs, shortcut], y)
    values, residual, mask = sequences(), sequences(seed=1), mask_of()
    values[~mask] = 0
    expected = GroupNormalization(2, use_mask=True)(values, residual=residual, mask=mask)
    actual = model([values, residual])
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(actual._keras_mask, mask)
    np.testing.assert_array_equal(tf.function(model)([values, residual]), expected)
    assert np.any(actual != GroupNormalization(2)(values, residual=residual))


FIT = """
import keras, numpy as np
from tensorflow_groupnorm.layers import GroupNormalization
keras.utils.set_random_seed(0)
inputs = keras.Input((9, 8))
norm = GroupNormalization(2, use_mask=True, activation="silu", dtype="mixed_bfloat16")
y = keras.layers.Dense(1, dtype="float32")(norm(keras.layers.Masking()(inputs)))
model = keras.Model(inputs, y)
initial = model.get_weights()
x = np.random.default_rng(0).normal(size=(4, 9, 8)).astype("float32")
x[0, 5:] = x[1] = 0
trained = []
for jit in (False, True):
    model.set_weights(initial)
    model.compile("sgd", "mse", jit_compile=jit)
    assert model.jit_compile is jit
    model.fit(x, np.ones((4, 9, 1)), epochs=3, verbose=0)
    trained.append(model.get_weights())
for before, after, jitted in zip(initial, *trained):
    assert np.isfinite(after).all() and np.any(after != before)
    np.testing.assert_allclose(jitted, after, rtol=1e-2, atol=1e-3)
"""


@pytest.mark.slow
def test_fit_with_and_without_xla(run_python):
    # In an interpreter of its own: Keras does without XLA while determinism is enabled.
    run = run_python(FIT)
    assert run.returncode == 0, run.stderr


def test_saved_loaded_and_exported(tmp_path):
    inputs = keras.Input((STEPS, 8))
    x = keras.layers.Masking()(inputs)
    model = keras.Model(inputs, GroupNormalization(2, use_mask=True, name="norm")(x))
    values = sequences()
    values[~mask_of()] = 0
    expected = model(values)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("norm").use_mask
    np.testing.assert_array_equal(loaded(values), expected)
    for portable in (False, True):
        folder = tmp_path / f"exported{portable}"
        tfgn.export(model, folder, portable=portable)
        loaded = tf.saved_model.load(folder)
        served = loaded.serve(values)
        np.testing.assert_allclose(served, expected, atol=1e-6)


def test_config_is_that_of_the_stock_layer_without_use_mask():
    assert "use_mask" not in GroupNormalization(2).get_config()
    config = GroupNormalization(2, use_mask=True).get_config()
    assert config["use_mask"] is True
    assert GroupNormalization.from_config(config).use_mask


@pytest.mark.parametrize("mode", ["full", "activations"])
def test_rematerialization(mode):
    with keras.RematScope(mode=mode):
        layer = GroupNormalization(2, activation="silu", use_mask=True)
    plain = GroupNormalization(2, activation="silu", use_mask=True)
    x = sequences()
    x[~mask_of()] = 0
    for each in (layer, plain):
        each.build(x.shape)

    @tf.function
    def gradients(layer):
        masked = keras.layers.Masking()(tf.constant(x))
        with tf.GradientTape() as tape:
            tape.watch(masked)
            y = layer(masked, residual=tf.constant(x)) + layer(x, mask=mask_of())
            loss = tf.reduce_sum(tf.sin(y))
        return tape.gradient(loss, [masked, *layer.trainable_variables])

    for actual, wanted in zip(gradients(layer), gradients(plain), strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-5)


def test_unknown_sizes():
    layer = GroupNormalization(2, use_mask=True)
    x, mask = sequences(between=(3,)), mask_of()
    wanted = layer(x, mask=mask)
    specs = [tf.TensorSpec([None, None, None, 8]), tf.TensorSpec([None, None], "bool")]
    traced = tf.function(
        lambda x, mask: layer(x, mask=mask), input_signature=specs, autograph=False
    )
    np.testing.assert_array_equal(traced(x, mask), wanted)
    np.testing.assert_array_equal(traced(x[:, :, :2], mask), layer(x[:, :, :2], mask=mask))
    assert traced(x[:0], mask[:0]).shape == (0, *x.shape[1:])


def test_second_order_gradients():
    layer = GroupNormalization(2, use_mask=True)
    x, mask = tf.constant(sequences()), mask_of([5, 9, 2, 3])

    def norm_of_gradient(x, **mask):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.square(tf.sin(layer(x, **mask))))
            norm = tf.reduce_sum(tf.square(tape.gradient(loss, x)))
        return outer.gradient(norm, x)

    padded = norm_of_gradient(x, mask=mask)
    for n, length in enumerate([5, 9, 2, 3]):
        alone = norm_of_gradient(x[n : n + 1, :length])
        np.testing.assert_allclose(padded[n, :length], alone[0], rtol=1e-3, atol=1e-3)
        assert not np.any(padded[n, length:])


@pytest.mark.parametrize("dtype", ["int32", "float32", "uint8"])
def test_masks_of_other_dtypes(dtype):
    x, mask = sequences(), mask_of()
    layer = GroupNormalization(2, use_mask=True)
    np.testing.assert_array_equal(layer(x, mask=mask.astype(dtype)), layer(x, mask=mask))


@pytest.mark.parametrize("shape", [(), (4, 8), (3, 9), (4, 9, 2), (4, 8, 9), (4, 9, 8, 1)])
def test_masks_of_another_shape(shape):
    x, mask = sequences(), np.ones(shape, bool)
    message = rf"`mask` must have.*mask.shape=\({', '.join(map(str, shape))}"
    for function in (tfgn.group_norm, stock.group_norm):
        with pytest.raises(ValueError, match=message):
            function(x, groups=2, mask=mask)
    layer = GroupNormalization(2, use_mask=True)
    with pytest.raises(ValueError, match=message):
        layer(x, mask=mask)
    with pytest.raises(ValueError, match=message):
        layer(keras.Input(batch_shape=x.shape), mask=keras.Input(batch_shape=shape, dtype="bool"))
    # Without use_mask it is passed on only.
    np.testing.assert_array_equal(GroupNormalization(2)(x, mask=mask), GroupNormalization(2)(x))
