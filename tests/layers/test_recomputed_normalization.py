"""RecomputedNormalization: the results of the plain layers, without the normalized tensor."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from recomputed import (
    EVERYWHERE,
    IMAGE,
    LINE,
    READERS,
    applied,
    assert_same,
    both,
    conv,
    inputs_of,
    norm,
)
from tensorflow_groupnorm import layers as tl
from tensorflow_groupnorm.layers import RecomputedNormalization
from training_steps import training_step

#: NumPy warns in `Model.save` (keras.src.backend.tensorflow.core.convert_to_numpy).
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def _marks(reader, mode="graph"):
    """Everything runs in graphs, what is in `EVERYWHERE` in the other modes and quickly as well."""
    if reader in EVERYWHERE:
        return ()
    return [pytest.mark.slow if mode == "graph" else pytest.mark.thorough]


@pytest.mark.parametrize(
    ("reader", "mode"),
    [
        pytest.param(reader, mode, marks=_marks(reader, mode))
        for reader in READERS
        for mode in ("graph", "eager", "jit")
    ],
)
def test_results_of_the_plain_layers(reader, mode):
    readers, shape = READERS[reader]
    plain, recomputed = both(norm(activation="relu"), readers, shape)
    inputs = inputs_of(plain)
    how = {"graph": mode != "eager", "jit": mode == "jit"}
    assert_same(training_step(recomputed, inputs, **how), training_step(plain, inputs, **how))


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("call", [[], ["residual"], ["scale", "shift"], ["shift", "residual"]])
def test_arguments_of_the_normalization(call, activation):
    plain, recomputed = both(
        norm(activation=activation, epsilon=1e-2), READERS["standardized"][0], call=call
    )
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


@pytest.mark.parametrize("affine", [{"scale": False}, {"center": False}, {"axis": 1}])
def test_forms_of_the_normalization(affine):
    plain, recomputed = both(norm(**affine), READERS["conv2d"][0], (8, 8, 8))
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float64"])
def test_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        plain, recomputed = both(norm(activation="silu"), READERS["two"][0])
    finally:
        keras.config.set_dtype_policy(before)
    inputs = inputs_of(plain)
    assert {layer.dtype_policy.name for layer in recomputed.layers} == {policy}
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


def test_layers_of_different_precision():
    plain, recomputed = both(
        norm(activation="relu", dtype="mixed_bfloat16"),
        lambda: [[conv("a", dtype="float32")], [conv("b", dtype="mixed_bfloat16")]],
    )
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


def test_a_subclass_that_computes_arguments():
    class Modulated(tl.GroupNormalization):
        def call(self, inputs):
            return super().call(inputs, shift=tf.reduce_mean(inputs, axis=[1, 2]))

    plain, recomputed = both(lambda: Modulated(2, name="norm"), READERS["conv2d"][0])
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


def test_a_subclass_that_computes_more():
    class Doubled(tl.GroupNormalization):
        def call(self, inputs):
            return 2 * super().call(inputs)

    layer = RecomputedNormalization(Doubled(2), conv())
    x = tf.ones((1, 8, 8, 4))
    np.testing.assert_array_equal(layer(x), applied(layer.layers, layer.normalization(x)))
    with tf.GradientTape(), pytest.raises(ValueError, match="Doubled returns something else"):
        layer(x)


@pytest.mark.parametrize(
    "reader", [pytest.param(reader, marks=_marks(reader)) for reader in READERS]
)
def test_files(reader, tmp_path):
    readers, shape = READERS[reader]
    _, model = both(norm(activation="relu"), readers, shape)
    inputs = inputs_of(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    # Keras builds what a wrapper wraps before the wrapper, whose name the paths then lack.
    assert [v.path.split("/")[-2:] for v in loaded.weights] == [
        v.path.split("/")[-2:] for v in model.weights
    ]
    for a, b in zip(tf.nest.flatten(loaded(inputs)), tf.nest.flatten(model(inputs)), strict=True):
        np.testing.assert_array_equal(a, b)
    for variable in loaded.weights:
        variable.assign(tf.zeros_like(variable.value))
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_single_reader():
    plain, recomputed = both(norm(activation="relu"), READERS["conv2d"][0], single=True)
    layer = recomputed.layers[-1]
    assert recomputed.output.shape == (None, 6, 6, 6)
    assert layer.compute_output_shape((2, 8, 8, 4)) == (2, 6, 6, 6)
    clone = RecomputedNormalization.from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


def test_sequential_and_names():
    model = keras.Sequential(
        [keras.Input(IMAGE), RecomputedNormalization(norm()(), conv())], name="sequential"
    )
    assert [v.path for v in model.weights] == [
        "sequential/norm/gamma",
        "sequential/norm/beta",
        "sequential/conv/kernel",
        "sequential/conv/bias",
    ]
    assert model.output_shape == (None, 6, 6, 6)


def test_masked_inputs_are_those_of_the_plain_layers():
    x = keras.Input(LINE)
    layer = RecomputedNormalization(norm(use_mask=True)(), kl.Conv1D(3, 3, name="conv"))
    model = keras.Model(x, layer(kl.Masking()(x)))
    values = np.random.default_rng(0).normal(size=(2, *LINE)).astype("float32")
    values[:, 5:] = 0
    normalized = layer.normalization(values, mask=np.arange(8)[None] < [[5], [5]])
    with tf.GradientTape(), pytest.warns(UserWarning, match="Conv1D.*does not support masking"):
        result = model(values)
    np.testing.assert_array_equal(result, layer.layers[0](normalized.numpy()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: (kl.GroupNormalization(2), conv()), "`normalization` must be a tensorflow_group"),
        (lambda: (tl.GroupNormalization(2, activation="gelu"), conv()), "activation=.*gelu"),
        (lambda: (tl.GroupNormalization(2), conv(activation="relu")), "activation relu is not lin"),
        (lambda: (tl.GroupNormalization(2), kl.MaxPooling2D()), "MaxPooling2D is not known to be"),
        (lambda: (tl.GroupNormalization(2), [[conv(), kl.ReLU()]]), "class ReLU is not known"),
        (lambda: (tl.GroupNormalization(2), conv(activity_regularizer="l2")), "an activity regul"),
        (
            lambda: (tl.GroupNormalization(2, activity_regularizer="l2"), conv()),
            "`normalization` must have no activity regularizer",
        ),
        (lambda: (tl.GroupNormalization(2), [3]), "`layers` must be a layer, or a list of layers"),
        (lambda: (tl.GroupNormalization(2), [conv()] * 2), "`layers` must hold each layer once"),
        (
            lambda: (
                tl.GroupNormalization(2),
                tl.WeightStandardization(conv(activation="relu")),
            ),
            "activation relu is not linear",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecomputedNormalization(*arguments())


def test_a_subclass_of_a_convolution_with_a_call_of_its_own_is_not_known_to_be_linear():
    class Squared(kl.Conv2D):
        def call(self, inputs):
            return super().call(inputs) ** 2

    class Named(kl.Conv2D):
        pass

    RecomputedNormalization(norm()(), Named(3, 3))
    with pytest.raises(ValueError, match="class Squared is not known to be linear"):
        RecomputedNormalization(norm()(), Squared(3, 3))
