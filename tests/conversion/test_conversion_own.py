"""`tfgn.convert`: functions and objects of the user's own, which are registered nowhere."""

import keras
import numpy as np
import pytest
from conversions import batch_norm, convert, images, randomize, resnet
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def twice(x):
    return 2 * keras.ops.tanh(x)


class OnlySum(keras.regularizers.Regularizer):
    def __call__(self, x):
        return keras.ops.sum(x)

    def get_config(self):
        return {}


class Holder(layers.Layer):
    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**{**config, "inner": inner})


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Activation(twice),
        lambda: layers.Activation(lambda x: twice(x)),
        lambda: layers.Dense(4, activation=lambda x: twice(x), kernel_regularizer=OnlySum()),
        lambda: layers.Conv2D(4, 1, activation=twice, bias_regularizer=OnlySum()),
        lambda: layers.Lambda(twice),
        lambda: layers.Lambda(lambda x: twice(x), output_shape=lambda shape: shape),
        lambda: Holder(keras.Sequential([layers.GroupNormalization(2), layers.Activation(twice)])),
    ],
)
def test_functions_and_objects_of_one_s_own_in_layers(layer):
    inputs = keras.Input((4, 4, 4))
    model = randomize(
        keras.Model(inputs, layers.Conv2D(2, 1)(layers.GroupNormalization(2)(layer()(inputs))))
    )
    converted, _ = convert(model, weight_standardization=None)
    x = images(2, 4, 4, 4)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(converted.losses, model.losses, rtol=1e-5)
    convert(model)  # With a standardized convolution in the place of a plain one.


def own_loss(targets, outputs):
    return keras.ops.mean((targets - outputs) ** 2)


class OwnLoss(keras.losses.Loss):
    def call(self, targets, outputs):
        return own_loss(targets, outputs)


class OwnMetric(keras.metrics.MeanSquaredError):
    pass


class OwnOptimizer(keras.optimizers.SGD):
    pass


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return self.norm(x)


@pytest.mark.parametrize(
    "compiled",
    [
        {"loss": own_loss, "metrics": [own_loss]},
        {"loss": lambda targets, outputs: own_loss(targets, outputs)},
        {"loss": OwnLoss(), "metrics": [OwnMetric()], "optimizer": OwnOptimizer(0.1)},
    ],
)
@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed"])
def test_compiled_with_functions_and_objects_of_one_s_own(kind, compiled):
    if kind == "functional":
        model = resnet(batch_norm)
    elif kind == "sequential":
        model = keras.Sequential([keras.Input((8, 8, 3)), layers.BatchNormalization()])
    else:
        model = Subclassed()
        model(images())
    model.compile(**{"optimizer": "sgd", **compiled})
    converted, report = convert(model, groups=1)
    assert model.compiled and not report.notes
    history = converted.fit(images(), np.zeros(converted(images()).shape), verbose=0).history
    assert len(history) == 1 + len(compiled.get("metrics", []))
    for old, new in zip(model.metrics, converted.metrics, strict=True):
        assert old is not new
    if "optimizer" in compiled:
        assert type(converted.optimizer) is OwnOptimizer
        assert converted.optimizer is not compiled["optimizer"]


class MetricWithoutConfig(keras.metrics.MeanSquaredError):
    def __init__(self, weight, name="weighted"):
        super().__init__(name=name)


def test_model_that_cannot_be_compiled_again_is_said_to_be_so():
    class OwnCompile(keras.Model):
        def compile(self, strength, **kwargs):
            super().compile(**kwargs)

    inputs = keras.Input((8, 8, 3))
    model = OwnCompile(inputs, layers.BatchNormalization()(inputs), name="mine")
    model.compile(0.5, optimizer="sgd", loss="mse")
    converted, report = convert(model)
    assert type(converted) is OwnCompile and not converted.compiled
    assert report.notes == [
        "mine is not compiled: OwnCompile overrides compile() but not compile_from_config()"
    ]
    assert str(report).splitlines()[-2] == report.notes[0]
    assert report.to_dict()["notes"] == report.notes
    model = resnet(batch_norm)
    model.compile("sgd", "mse", metrics=[MetricWithoutConfig(2)])
    converted, report = convert(model)
    assert not converted.compiled
    assert "the MetricWithoutConfig 'weighted' cannot be copied: " in report.notes[0]
