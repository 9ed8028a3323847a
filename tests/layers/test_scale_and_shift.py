"""GroupNormalization with a scale and a shift per sample: adaptive group normalization."""

import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow_groupnorm.layers import GroupNormalization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (3, 6, 5, 16)


def random(shape, dtype="float32", seed=0):
    return tf.cast(np.random.default_rng(seed).normal(0.5, 1, shape), dtype)


def modulated(layer, x, axis, scale, shift, residual):
    """The formula, one op at a time."""
    shape = [x.shape[0], *(x.shape[axis] if i == axis % 4 else 1 for i in range(1, 4))]
    y = layer(x)
    y = y if scale is None else y * (1 + tf.reshape(scale, shape))
    y = y if shift is None else y + tf.reshape(shift, shape)
    return tf.nn.silu(y if residual is None else y + residual)


def build(axis=-1, dtype=None, **arguments):
    """A layer with SiLU, and one without any activation; both with the same random weights."""
    shape = list(SHAPE)
    shape[-1], shape[axis] = shape[axis], shape[-1]
    layers = [
        GroupNormalization(4, axis=axis, activation=activation, dtype=dtype, **arguments)
        for activation in ("silu", None)
    ]
    for layer in layers:
        layer.build(shape)
        layer.set_weights([random(w.shape, seed=7) for w in layer.get_weights()])
    return *layers, shape


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("center, gamma", list(itertools.product((True, False), repeat=2)))
@pytest.mark.parametrize("given", ["scale", "shift", "both", "both and residual"])
@pytest.mark.parametrize("jit", [False, True])
def test_formula_and_gradients(axis, center, gamma, given, jit):
    fused, plain, shape = build(axis, center=center, scale=gamma)
    x, residual = random(shape), random(shape, seed=1)
    scale, shift = random((3, 16), seed=2), random((3, 16), seed=3)
    scale, shift = (None if given == "shift" else scale), (None if given == "scale" else shift)
    residual = residual if "residual" in given else None
    inputs = {"x": x, "scale": scale, "shift": shift, "residual": residual}
    sources = [*(t for t in inputs.values() if t is not None)]

    @tf.function(jit_compile=jit)
    def result(call, layer):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            y = call()
            loss = tf.reduce_sum(tf.sin(y))
        return [y, *tape.gradient(loss, [*sources, *layer.trainable_variables])]

    actual = result(lambda: fused(x, residual=residual, scale=scale, shift=shift), fused)
    expected = result(lambda: modulated(plain, x, axis, scale, shift, residual), plain)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype, tolerance", [("mixed_bfloat16", 0.03), ("mixed_float16", 4e-3)])
def test_low_precision_inputs(dtype, tolerance):
    layer, plain, shape = build(dtype=dtype)
    dtype = dtype.removeprefix("mixed_")
    x, scale, shift = random(shape, dtype), random((3, 16), dtype), random((3, 16), dtype, 1)
    y = layer(x, scale=scale, shift=shift)
    assert y.dtype == dtype
    reference, inputs = build()[1], [tf.cast(t, "float32") for t in (x, scale, shift)]
    expected = modulated(reference, inputs[0], -1, *inputs[1:], None)
    np.testing.assert_allclose(tf.cast(y, "float32"), expected, rtol=tolerance, atol=tolerance)


def unet_block():
    image, embedding = keras.Input((8, 8, 16)), keras.Input((6,))
    both = keras.layers.Dense(32)(embedding)
    y = GroupNormalization(4, activation="silu", name="norm")(
        image, scale=both[:, :16], shift=both[:, 16:]
    )
    model = keras.Model([image, embedding], y)
    model.set_weights([random(w.shape, seed=5) for w in model.get_weights()])
    return model


def test_model_saved_and_loaded(tmp_path):
    model = unet_block()
    inputs = [random((2, 8, 8, 16)), random((2, 6))]
    expected = model(inputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(inputs), expected)
    changed = model([inputs[0], inputs[1] + 1])
    assert np.abs(changed - expected).max() > 0.1


def test_exported_in_stock_ops(tmp_path):
    model = unet_block()
    inputs = [random((2, 8, 8, 16)), random((2, 6))]
    tfgn.export(model, tmp_path / "portable", portable=True)
    loaded = tf.saved_model.load(tmp_path / "portable")
    np.testing.assert_allclose(loaded.serve(inputs), model(inputs), atol=1e-5)


@pytest.mark.parametrize("mode", ["full", "activations"])
def test_rematerialization(mode):
    with keras.RematScope(mode=mode):
        layer = GroupNormalization(4, activation="silu")
    plain = GroupNormalization(4, activation="silu")
    x, scale, shift = random(SHAPE), random((3, 16), seed=2), random((3, 16), seed=3)
    for each in (layer, plain):
        each.build(x.shape)

    @tf.function
    def gradients(layer):
        with tf.GradientTape() as tape:
            tape.watch([x, scale, shift])
            y = layer(x, shift=shift) + layer(x, residual=x, scale=scale)
            loss = tf.reduce_sum(tf.sin(y))
        return tape.gradient(loss, [x, scale, shift])

    for actual, expected in zip(gradients(layer), gradients(plain), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_on_another_keras_backend(monkeypatch):
    fused, plain, shape = build()
    x, scale, shift = random(shape), random((3, 16), seed=2), random((3, 16), seed=3)
    expected = modulated(plain, x, -1, scale, shift, x)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    y = fused(x, residual=x, scale=scale, shift=shift)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("given", ["scale", "shift", "both"])
@pytest.mark.parametrize(
    "shape", [(16,), (1, 16), (1, 1, 1, 16), (3, 1, 1, 16)], ids=lambda shape: str(len(shape))
)
def test_other_shapes(axis, given, shape):
    layer, _, image_shape = build(axis)
    if len(shape) == 4 and axis == 1:
        shape = (shape[0], 16, 1, 1)
    x = random(image_shape)
    names = ["scale", "shift"] if given == "both" else [given]
    tensors = {name: random(shape, seed=i) for i, name in enumerate(names)}
    results = []
    for as_documented in (False, True):
        with tf.GradientTape() as tape:
            tape.watch([x, tensors])
            arguments = tensors
            if as_documented:
                arguments = {
                    name: tf.broadcast_to(tf.reshape(t, [-1, 16]), [3, 16])
                    for name, t in tensors.items()
                }
            y = layer(x, **arguments)
            loss = tf.reduce_sum(tf.sin(y))
        results.append(tf.nest.flatten([y, tape.gradient(loss, [x, tensors])]))
    for actual, expected in zip(*results, strict=True):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    inputs = keras.Input(image_shape[1:])
    symbolic = {name: keras.Input(batch_shape=t.shape) for name, t in tensors.items()}
    model = keras.Model([inputs, *symbolic.values()], layer(inputs, **symbolic))
    np.testing.assert_allclose(model([x, *tensors.values()]), results[0][0], atol=1e-5)


@pytest.mark.parametrize("name", ["scale", "shift"])
@pytest.mark.parametrize("shape", [(), (8,), (3, 8), (2, 16), (3, 16, 1, 1), (1, 3, 16)])
def test_another_shape_is_refused(name, shape):
    message = rf"`{name}`.*\(3, 16\).*Received: {name}.shape={re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        GroupNormalization(4)(random(SHAPE), **{name: tf.zeros(shape)})
    if shape not in ((), (2, 16)):
        symbolic = keras.Input(batch_shape=shape)
        with pytest.raises(ValueError, match=f"`{name}`"):
            GroupNormalization(4)(keras.Input(SHAPE[1:]), **{name: symbolic})
