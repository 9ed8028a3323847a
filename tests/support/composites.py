"""Layers and models with code of their own, as others write them."""

import keras
import numpy as np
from conversions import convert, images
from keras import layers

register = keras.saving.register_keras_serializable("composites")


def norm(kind, name=None):
    if kind == "gn":
        return layers.GroupNormalization(2, epsilon=1e-2, name=name)
    return layers.BatchNormalization(epsilon=1e-2, name=name)


class Configured(layers.Layer):
    """A layer whose config is its arguments."""

    def __init__(self, filters=4, kind="gn", **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kind = kind

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "kind": self.kind}


@register
class WithoutBuild(Configured):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(self.filters, 3, padding="same", name="conv")
        self.norms = {"first": [norm(self.kind, "norm")]}
        self.pair = (layers.Activation("relu", name="relu"), norm(self.kind, "last"))

    def call(self, x):
        x = self.norms["first"][0](self.conv(x))
        return self.pair[1](self.pair[0](x))


@register
class InInit(WithoutBuild):
    def build(self, shape):
        self.conv.build(shape)
        shape = (*shape[:-1], self.filters)
        self.norms["first"][0].build(shape)
        self.pair[1].build(shape)


@register
class InBuild(Configured):
    """Makes a `Sequential` and another block when it is built, as keras-tcn and DeepLabV3 do."""

    def build(self, shape):
        conv = layers.Conv2D(self.filters, 3, padding="same", name="conv")
        steps = [conv, norm(self.kind, "norm"), layers.ReLU(name="relu")]
        self.stage = keras.Sequential(steps, name="stage")
        self.stage.build(shape)
        self.block = InInit(filters=self.filters, kind=self.kind, name="block")
        self.block.build((*shape[:-1], self.filters))

    def call(self, x):
        return self.block(self.stage(x))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.filters)


@register
class OnlySuperBuild(WithoutBuild):
    def build(self, shape):
        super().build(shape)


@register
class Nested(Configured):
    """Two levels, the inner one built by the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = InBuild(filters=self.filters, kind=self.kind, name="inner")
        self.blocks = [InInit(filters=self.filters, kind=self.kind, name="zero")]

    def call(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.inner(x)


class Helper:
    """No layer: Keras does not look into it."""

    def __init__(self, kind):
        self.steps = [norm(kind, "norm")]

    def __call__(self, x):
        return self.steps[0](x)


@register
class WithHelper(Configured):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.helper = Helper(self.kind)
        self.kept_in_view = self.helper.steps[0]

    def call(self, x):
        return self.helper(x)


@register
class Shared(Configured):
    """Holds one normalization under two names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm(self.kind, "norm")
        self.chain = [layers.Conv2D(self.filters, 1, name="conv"), self.norm]

    def call(self, x):
        return self.norm(self.chain[0](x)) + self.chain[1](x)


def functional(layer, side=6, channels=4):
    inputs = keras.Input((side, side, channels))
    return keras.Model(inputs, layers.Dense(2, name="head")(layer(inputs)), name="model")


@register
class Subclassed(keras.Model):
    """A subclassed model that holds a functional one and a layer of layers."""

    def __init__(self, kind="gn", **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        inputs = keras.Input((6, 6, 4))
        x = layers.Conv2D(4, 3, padding="same", name="encoder_conv")(inputs)
        x = norm(kind, "encoder_norm")(x)
        self.encoder = keras.Model(inputs, layers.ReLU(name="encoder_relu")(x), name="encoder")
        self.decoder = Nested(kind=kind, name="decoder")

    def encode(self, x):
        return self.encoder(x)

    def call(self, x):
        return self.decoder(self.encode(x))

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


def subclassed(kind):
    model = Subclassed(kind)
    model(images(2, 6, 6, 4))
    return model


LAYERS = [WithoutBuild, InInit, InBuild, OnlySuperBuild, Nested, WithHelper, Shared]
MODELS = {
    **{
        cls.__name__: lambda kind, cls=cls: functional(cls(kind=kind, name="own")) for cls in LAYERS
    },
    "Subclassed": subclassed,
    "TimeDistributed": lambda kind: keras.Sequential(
        [keras.Input((2, 6, 6, 4)), layers.TimeDistributed(InBuild(kind=kind, name="own"))],
        name="model",
    ),
}


def normalizations(model):
    """The normalizations that Keras knows of in a model, and those that plain objects hold."""
    found = model._flatten_layers()
    helpers = [layer.helper.steps[0] for layer in found if isinstance(layer, WithHelper)]
    kinds = (layers.BatchNormalization, layers.GroupNormalization)
    return [layer for layer in {*found, *helpers} if isinstance(layer, kinds)]


def batch(model):
    shape = getattr(model, "input_shape", (None, 6, 6, 4))
    return images(2, *shape[1:])


def described(model):
    """The classes and names of the layers, but for inputs, which Keras numbers."""
    found = model._flatten_layers()
    inputs = keras.layers.InputLayer
    return [(type(layer).__name__, layer.name) for layer in found if not isinstance(layer, inputs)]


def check_loads(model, x, tmp_path):
    model.compile("adam", "mse")
    model.fit(x, np.zeros(model(x).shape), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert described(loaded) == described(model)
    np.testing.assert_array_equal(loaded(x), model(x))
    # The optimizer's slots are those of the same variables.
    for each in (model, loaded):
        each.fit(x, np.zeros(model(x).shape), verbose=0)
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    again, report = convert(loaded, weight_standardization=None)
    assert report.count("replaced") == 0
    np.testing.assert_array_equal(again(x), loaded(x))
    again.save(tmp_path / "again.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "again.keras")(x), loaded(x))
    model.save_weights(tmp_path / "model.weights.h5")
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(again(x), model(x))
