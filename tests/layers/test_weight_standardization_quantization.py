"""Standardized kernels that LoRA adapts, and those that are not to be quantized."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from standardization import normal, randomize
from tensorflow_groupnorm.layers import WeightStandardization

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_lora_adapts_the_kernel_before_it_is_standardized(tmp_path):
    layer = tfgn.layers.StandardizedDense(6)
    x = tf.constant(normal((2, 5)), "float32")
    layer.build(x.shape)
    layer.enable_lora(2)
    randomize(layer)
    merged = layer.kernel
    expected = x @ tfgn.standardize_weights(merged) + layer.bias.value
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(layer(x)))
    variables = [v.value for v in layer.trainable_variables]
    assert len(variables) == 3
    for gradient in tape.gradient(loss, variables):
        assert np.abs(gradient).max() > 0
    # Keras saves the sum, which a layer without LoRA then standardizes to the same kernel.
    model = keras.Sequential([layer])
    model.build(x.shape)
    model.save_weights(tmp_path / "model.weights.h5")
    plain = keras.Sequential([tfgn.layers.StandardizedDense(6)])
    plain.build(x.shape)
    plain.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(plain(x), layer(x), rtol=1e-4, atol=1e-4)


def test_quantization_is_refused():
    message = "standardized kernel cannot be quantized.*int8"
    layer = tfgn.layers.StandardizedDense(6)
    layer.build((None, 5))
    with pytest.raises(NotImplementedError, match=message):
        layer.quantize("int8")
    with pytest.raises(NotImplementedError, match=message):
        tfgn.layers.StandardizedDense(6, dtype="int8_from_float32").build((None, 5))
    wrapper = WeightStandardization(keras.layers.Dense(6))
    wrapper.build((None, 5))
    for each in (wrapper, wrapper.layer):
        with pytest.raises(NotImplementedError, match=message):
            each.quantize("int8")
    quantized = WeightStandardization(keras.layers.Dense(6, dtype="int8_from_float32"))
    with pytest.raises(NotImplementedError, match=message):
        quantized.build((None, 5))
    dense = keras.layers.Dense(6)
    dense.build((None, 5))
    dense.quantize("int8")
    with pytest.raises(NotImplementedError, match=message):
        WeightStandardization(dense).build((None, 5))


def test_quantize_leaves_standardized_kernels_and_quantizes_the_rest(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            WeightStandardization(keras.layers.Conv2D(8, 3), gain=True),
            tfgn.layers.StandardizedConv2D(8, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            WeightStandardization(keras.layers.Dense(8)),
            keras.layers.Dense(4, name="head"),
        ]
    )
    randomize(model)
    x = tf.constant(normal((2, 8, 8, 3)), "float32")
    before = model(x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.quantize("int8")
    assert sum("standardized kernel cannot" in str(w.message) for w in caught) == 3
    assert model.layers[-1].quantization_mode == "int8"
    assert all(v.dtype == "float32" for layer in model.layers[:-1] for v in layer.weights)
    y = model(x)
    np.testing.assert_allclose(y, before, rtol=0.1, atol=0.1 * np.abs(before).max())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), y)
