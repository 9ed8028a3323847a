"""`tfgn.convert`: models of all kinds, and what they keep."""

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from conversions import Fused, batch_norm, changes, convert, images, randomize, resnet
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
    assert isinstance(converted, Subclassed) and type(converted).__name__ == "Subclassed"
    assert converted.name == "mine" and converted.compiled
    assert isinstance(converted.block.chain[1], Fused)
    assert isinstance(converted.block._private, Fused)
    assert changes(report)["block/norm"].action == "replaced"
    np.testing.assert_allclose(converted(images()), model(images()), rtol=1e-4, atol=1e-5)
    assert len(converted.trainable_weights) == len(model.trainable_weights)
    _, report = convert(model)
    assert changes(report)["block/conv"].action == "replaced"
    assert changes(report)["stem"].action == "kept"


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
    converted, report = convert(model, groups=2)
    x = images(2, 5, 8)
    x[:, 3:] = 0
    assert "use_mask=True" in changes(report)["norm"].reason
    y = layers.GroupNormalization(2)(x[:, :3])
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


def test_frozen_variables_have_no_place_in_the_new_optimizer():
    model = resnet(batch_norm)
    model.get_layer("stem").trainable = False
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    converted, _ = convert(model)
    assert len(converted.optimizer.variables) == 2 + len(converted.trainable_variables)
    assert converted.fit(images(), np.zeros((2, 3)), verbose=0).history["loss"]


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
