"""`tfgn.convert(model, save_memory=True)`: training, precision, frozen layers, LoRA."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conversions import batch_norm, convert, images, randomize, resnet
from pairs import ONLY_PAIRS, check_round_trip, paired, pairs
from training_steps import by_path

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", "mixed_float16", "float64", "bfloat16"], indirect=True
)
def test_precision(policy, tmp_path):
    model = resnet(batch_norm)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.2, 1, variable.shape))
    new, _ = paired(model, images(), groups=4)
    assert {pair.dtype_policy.name for pair in pairs(new)} == {policy}
    check_round_trip(new, images(), tmp_path)


def test_norms_and_readers_of_different_dtypes():
    x = inputs = keras.Input((8, 8, 4))
    x = keras.layers.GroupNormalization(2, dtype="float32", name="wide")(x)
    x = keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16", name="narrow")(x)
    x = keras.layers.GroupNormalization(2, dtype="mixed_float16", name="half")(x)
    x = keras.layers.Conv2D(4, 3, dtype="float32", name="full")(x)
    model = randomize(keras.Model(inputs, x))
    _, report = paired(model, images(2, 8, 8, 4), weight_standardization=None)
    assert report.count("paired") == 2


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(1e-3),
        # Finds the layers that it excludes by the paths of their weights.
        keras.optimizers.Muon(1e-3, exclude_layers=["logits"]),
    ],
)
def test_a_compiled_model_trains_alike(optimizer):
    model = randomize(resnet(batch_norm), seed=3)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    histories, weights = [], []
    for save_memory in (False, True):
        new, _ = convert(model, groups=4, save_memory=save_memory)
        assert new.compiled and new.optimizer is not model.optimizer
        keras.utils.set_random_seed(0)
        history = new.fit(images(8, 8, 8, 3), np.arange(8) % 3, batch_size=4, epochs=2, verbose=0)
        histories.append(history.history)
        weights.append(by_path(new.weights))
    assert histories[0] == histories[1]
    for path, variable in weights[0].items():
        np.testing.assert_array_equal(weights[1][path], variable)


def test_losses_by_the_names_of_the_outputs():
    inputs = keras.Input((8, 8, 4))
    y = keras.layers.GroupNormalization(2, name="norm")(inputs)
    heads = [keras.layers.Conv2D(2, 1, name=name)(y) for name in ("mask", "scores")]
    model = randomize(keras.Model(inputs, heads))
    model.compile("sgd", {"mask": "mse", "scores": "mae"})
    new, report = convert(model, weight_standardization=None, save_memory=True)
    assert report.count("paired") == 1 and new.output_names == ["mask", "scores"]
    targets = {name: np.zeros((2, 8, 8, 2)) for name in ("mask", "scores")}
    x = images(2, 8, 8, 4)
    assert new.train_on_batch(x, targets) == pytest.approx(model.train_on_batch(x, targets))


def test_a_saved_optimizer_continues(tmp_path):
    new, _ = convert(randomize(resnet(batch_norm)), groups=4, save_memory=True)
    new.compile("adam", "mse")
    x, y = images(), np.zeros((2, 3))
    new.train_on_batch(x, y)
    new.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.train_on_batch(x, y) == new.train_on_batch(x, y)
    for a, b in zip(new.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_layers_stay_frozen(tmp_path):
    model = randomize(resnet(batch_norm))
    for name in ("norm0", "conv1", "stem"):
        model.get_layer(name).trainable = False
    new, _ = paired(model, images(), groups=4)
    frozen = [layer.name for layer in new._flatten_layers() if not layer.trainable]
    assert sorted(frozen) == ["conv1", "norm0", "stem"]
    plain, _ = convert(model, groups=4)
    assert by_path(new.trainable_weights).keys() == by_path(plain.trainable_weights).keys()
    loaded = check_round_trip(new, images(), tmp_path)
    assert len(loaded.trainable_weights) == len(new.trainable_weights)
    again, _ = convert(new, save_memory=True, **ONLY_PAIRS)
    assert by_path(again.trainable_weights).keys() == by_path(new.trainable_weights).keys()
    new.trainable = False
    assert not new.trainable_weights
    new.trainable = True
    assert len(new.trainable_weights) == len(new.weights)


def test_a_frozen_model_stays_frozen():
    model = randomize(resnet(batch_norm))
    model.trainable = False
    new, _ = convert(model, groups=4, save_memory=True)
    assert len(pairs(new)) == 3 and not new.trainable_weights
    assert not any(layer.trainable for layer in new.layers if layer.weights)


def test_lora(tmp_path):
    model = randomize(resnet(batch_norm))
    for name in ("conv0", "proj1", "last_conv1"):
        model.get_layer(name).enable_lora(2)
        model.get_layer(name).lora_kernel_b.assign(
            0.1 * np.ones(model.get_layer(name).lora_kernel_b.shape)
        )
    new, report = paired(model, images(), groups=4, weight_standardization=None)
    assert report.count("paired") == 3
    names = {v.name for v in new.trainable_weights if "lora" in v.name}
    assert names == {"lora_kernel_a", "lora_kernel_b"}
    check_round_trip(new, images(), tmp_path)


def test_lora_of_a_pair():
    new, _ = convert(randomize(resnet(batch_norm)), groups=4, save_memory=True)
    (conv,) = pairs(new)[0].layers
    before = len(new.trainable_weights)
    conv.enable_lora(2)
    assert len(new.trainable_weights) == before + 1
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(new(images()) ** 2)
    gradient = tape.gradient(loss, conv.lora_kernel_b.value)
    assert np.any(gradient)


def test_regularizers_count_once():
    model = resnet(batch_norm)
    for name in ("conv0", "conv1"):
        model.get_layer(name).kernel_regularizer = keras.regularizers.L2(0.5)
    new, _ = paired(randomize(model), images(), groups=4)
    plain, _ = convert(model, groups=4)
    assert len(new.losses) == len(plain.losses) > 0
