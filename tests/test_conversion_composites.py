"""`tfgn.convert`: layers and models with code of their own, and what they are loaded as."""

import copy
import functools
import pickle

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from conversions import Fused, changes, convert, images, randomize
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

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


@pytest.mark.parametrize("name", MODELS)
def test_stock_group_normalization_keeps_outputs_and_loads_as_the_fused(name, tmp_path):
    model = randomize(MODELS[name]("gn"))
    x = batch(model)
    converted, report = convert(model, weight_standardization=None)
    assert all(isinstance(layer, Fused) for layer in normalizations(converted))
    assert report.count("replaced") == len(normalizations(model)) and not report.count("kept")
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    if name != "TimeDistributed":  # Keras builds a copy of what it wraps outside of its scope.
        assert [w.path for w in converted.weights] == [w.path for w in model.weights]
    check_loads(converted, x, tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_batch_normalization_loads_as_what_it_became(name, tmp_path):
    model = randomize(MODELS[name]("bn"))
    converted, report = convert(model, groups=2)
    norms = normalizations(converted)
    assert norms and all(isinstance(layer, Fused) for layer in norms)
    assert report.count("replaced") >= len(norms)
    check_loads(converted, batch(model), tmp_path)


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


def test_other_ways_to_copy_a_converted_model(tmp_path):
    model, _ = convert(randomize(subclassed("bn")), groups=2)
    x = batch(model)
    copies = [
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        keras.models.clone_model(model),
        keras.models.model_from_json(model.to_json()),
    ]
    for each in copies:
        each.set_weights(model.get_weights())
        assert described(each) == described(model)
        np.testing.assert_array_equal(each(x), model(x))
    exported = tfgn.export(model, tmp_path / "saved_model", portable=True)
    assert exported.difference < 1e-5


def test_convolutions_in_composites_are_standardized_and_load_so(tmp_path):
    model = randomize(functional(Nested(kind="bn", name="own")))
    converted, report = convert(model, groups=2)
    assert changes(report)["own/inner/stage/conv"].result == "StandardizedConv2D"
    assert changes(report)["own/zero/conv"].result == "StandardizedConv2D"
    check_loads(converted, batch(model), tmp_path)


def test_two_conversions_one_after_the_other(tmp_path):
    model = randomize(subclassed("bn"))
    once, _ = convert(model, weight_standardization=None, groups=2)
    twice, report = convert(once, norm=None)
    assert report.count("replaced") == 4
    check_loads(twice, batch(model), tmp_path)


def test_what_is_frozen_after_the_conversion_loads_frozen(tmp_path):
    converted, _ = convert(randomize(subclassed("bn")), groups=2)
    converted.decoder.trainable = False
    converted.decoder.inner.block.trainable = True
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    paths = [w.path for w in converted.trainable_weights]
    assert [w.path for w in loaded.trainable_weights] == paths
    assert 0 < len(paths) < len(converted.weights)


@register
class Backbone(keras.Model):
    """A functional model that its constructor makes, with methods and tensors in attributes."""

    def __init__(self, filters=4, kind="bn", **kwargs):
        inputs = keras.Input((6, 6, 3))
        x, outputs = inputs, {}
        for level in ("P1", "P2"):
            x = layers.Conv2D(filters, 3, padding="same", name=f"{level}_conv")(x)
            x = layers.ReLU(name=f"{level}_relu")(norm(kind, f"{level}_norm")(x))
            outputs[level] = x
        super().__init__(inputs, layers.Conv2D(2, 1, name="last")(x), **kwargs)
        self.filters = filters
        self.kind = kind
        self.pyramid_outputs = outputs
        self.first_norm = self.get_layer("P1_norm")
        self.features = keras.Model(inputs, outputs["P1"], name="features")

    def encode(self, x):
        return self.features(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 3 * keras.ops.mean((y - y_pred) ** 2)

    def get_config(self):
        return {"filters": self.filters, "kind": self.kind, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@pytest.mark.parametrize("kind", ["gn", "bn"])
def test_functional_subclasses_keep_class_methods_and_tensors(kind, tmp_path):
    model = randomize(Backbone(kind=kind, name="mine"))
    standardization = None if kind == "gn" else "bit"
    converted, report = convert(model, groups=2, weight_standardization=standardization)
    assert isinstance(converted, Backbone) and converted.name == "mine" and not report.notes
    assert converted.first_norm is converted.get_layer("P1_norm")
    assert isinstance(converted.first_norm, Fused)
    x = images(2, 6, 6, 3)
    extractor = keras.Model(converted.inputs, converted.pyramid_outputs)
    features = extractor([x])
    np.testing.assert_array_equal(converted.encode(x), features["P1"])
    np.testing.assert_array_equal(converted.get_layer("last")(features["P2"]), converted(x))
    if kind == "gn":
        np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(converted.encode(x), model.encode(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        converted.compute_loss(y=0.0, y_pred=converted(x)),
        3 * np.mean(converted(x) ** 2),
        rtol=1e-4,
    )
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, Backbone)
    np.testing.assert_array_equal(loaded(x), converted(x))
    np.testing.assert_array_equal(loaded.encode(x), converted.encode(x))
    assert loaded.get_config()["changes"] == converted.get_config()["changes"]


def test_functional_subclass_in_another_model(tmp_path):
    inputs = keras.Input((6, 6, 3))
    model = randomize(keras.Model(inputs, layers.ReLU()(Backbone(name="own")(inputs))))
    converted, _ = convert(model, groups=2)
    assert isinstance(converted.get_layer("own"), Backbone)
    check_loads(converted, images(2, 6, 6, 3), tmp_path)


@register
class Chain(keras.Sequential):
    """Its config names what its constructor takes, and not its layers."""

    def __init__(self, filters=4, **kwargs):
        steps = [layers.Conv2D(filters, 3, name="conv"), norm("gn", "norm")]
        steps += [layers.ReLU(name="relu"), layers.Dense(2, name="head")]
        super().__init__([keras.Input((6, 6, 3)), *steps], **kwargs)
        self.filters = filters

    def twice(self, x):
        return 2 * self(x)

    def get_config(self):
        return {"filters": self.filters, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_sequential_subclasses_keep_class_and_methods(tmp_path):
    model = randomize(Chain(4, name="mine"))
    converted, report = convert(model, weight_standardization=None)
    assert isinstance(converted, Chain) and converted.filters == 4 and not report.notes
    assert report.count("fused") == 1 and len(converted.layers) == 3
    x = images(2, 6, 6, 3)
    np.testing.assert_allclose(converted.twice(x), 2 * model(x), rtol=1e-4, atol=1e-5)
    check_loads(converted, x, tmp_path)


class ChainOf(keras.Sequential):
    def __init__(self, filters):
        steps = [layers.Conv2D(filters, 3), norm("gn", "norm"), layers.ReLU()]
        super().__init__([keras.Input((6, 6, 3)), *steps], name="mine")


class NamedFunctional(keras.Model):
    def __init__(self, filters):
        inputs = keras.Input((6, 6, 3))
        x = norm("gn", "norm")(layers.Conv2D(filters, 3)(inputs))
        super().__init__(inputs, layers.Dense(2)(layers.ReLU()(x)), name="mine")


@pytest.mark.parametrize("cls", [ChainOf, NamedFunctional])
def test_classes_that_no_config_describes_are_said_to_be_lost(cls, tmp_path):
    model = randomize(cls(4))
    x = images(2, 6, 6, 3)
    converted, report = convert(model, weight_standardization=None)
    assert not isinstance(converted, cls)
    assert f"its class {cls.__name__} cannot be made from its config" in report.notes[0]
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)
    check_loads(converted, x, tmp_path)
    before = np.array(model(x))
    same = tfgn.convert(model, in_place=True, weight_standardization=None, report=None)
    assert same is model and isinstance(model.get_layer("norm"), Fused)
    np.testing.assert_allclose(model(x), before, rtol=1e-4, atol=1e-5)


class Vae(keras.Model):
    """In the style of keras.io: a model of two models."""

    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        self.tracker = keras.metrics.Mean(name="total")

    def call(self, x):
        return self.decoder(self.encoder(x))


def make_vae():
    inputs = keras.Input((6, 6, 4))
    encoder = keras.Model(inputs, norm("gn", "first")(layers.Conv2D(4, 3)(inputs)))
    decoder = keras.Sequential([keras.Input((4, 4, 4)), norm("gn", "second"), layers.ReLU()])
    model = Vae(encoder, decoder)
    model(images(2, 6, 6, 4))
    return randomize(model)


class NoConfig(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = norm("gn", "norm")

    def call(self, x):
        return self.norm(x)


class RaisingConfig(NoConfig):
    def get_config(self):
        raise RuntimeError("not today")


def no_config(cls):
    model = cls()
    model(images(2, 6, 6, 4))
    return randomize(model)


@pytest.mark.parametrize(
    "make",
    [
        make_vae,
        functools.partial(no_config, NoConfig),
        functools.partial(no_config, RaisingConfig),
    ],
)
def test_models_without_a_config_are_converted_in_place(make, tmp_path):
    model = make()
    model.compile("sgd", "mse")
    x = images(2, 6, 6, 4)
    before = np.array(model(x))
    with pytest.raises(ValueError, match="cannot be copied.*in_place=True"):
        tfgn.convert(model)
    assert not any(isinstance(layer, Fused) for layer in model._flatten_layers())
    converted = tfgn.convert(model, in_place=True, weight_standardization=None, report=None)
    assert converted is model and model.compiled
    assert all(isinstance(layer, Fused) for layer in normalizations(model))
    np.testing.assert_allclose(model(x), before, rtol=1e-4, atol=1e-5)
    history = model.fit(x, np.zeros(before.shape), verbose=0)
    assert np.isfinite(history.history["loss"][0])
    if make is make_vae or make.args[0] is RaisingConfig:
        with pytest.raises(NotImplementedError, match="was converted and cannot be saved"):
            model.save(tmp_path / "model.keras")


def test_in_place_conversion_of_a_functional_model(tmp_path):
    model = randomize(functional(Nested(kind="gn", name="own")))
    x = batch(model)
    before, feature = np.array(model(x)), model.get_layer("own").output
    converted = tfgn.convert(model, in_place=True, weight_standardization=None, report=None)
    assert converted is model and model.get_layer("own").output is feature
    np.testing.assert_allclose(model(x), before, rtol=1e-4, atol=1e-5)
    check_loads(model, x, tmp_path)


class InFunction(Configured):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        hidden = norm("bn", "hidden")
        self.function = lambda x: hidden(x)
        self.in_set = {norm("bn", "in_set")}

    def call(self, x):
        return self.function(x) + sum(layer(x) for layer in self.in_set)


def test_what_cannot_be_reached_is_named():
    model = functional(Nested(name="own"))
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, InFunction(name="holder")(inputs))
    _, report = convert(model)
    kept = {change.name: change.reason for change in report.changes if change.action == "kept"}
    assert {name.split("/")[-1] for name in kept} == {"hidden", "in_set"}
    assert all("cannot be replaced" in reason for reason in kept.values())


class Untracked(Configured):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.helper = Helper(self.kind)

    def call(self, x):
        return self.helper(x)


def test_layers_in_plain_objects_are_converted_with_a_note():
    model = functional(Untracked(name="own"))
    norm = model.get_layer("own").helper.steps[0]
    norm.gamma.assign([1.0, 2.0, 3.0, 4.0])
    converted, report = convert(model)
    assert isinstance(converted.get_layer("own").helper.steps[0], Fused)
    np.testing.assert_allclose(converted(batch(model)), model(batch(model)), rtol=1e-4, atol=1e-5)
    assert report.notes == [
        "Keras neither trains nor saves what only plain Python objects hold: "
        "operations[1].helper.steps[0]"
    ]


class Undescribed(Configured):
    """Its config does not say how many blocks it has."""

    def __init__(self, blocks=1, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [InInit(name=f"block{i}") for i in range(blocks)]

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_configs_that_do_not_describe_the_layer_are_refused():
    model = functional(Undescribed(blocks=2, name="own"))
    with pytest.raises(ValueError, match=r"has no operations\[1\].blocks\[1\].*in_place=True"):
        tfgn.convert(model)


def test_layer_that_is_never_built_is_left():
    class Spare(InInit):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.spare = norm("bn", "spare")

    model = randomize(functional(Spare(name="own")))
    converted, report = convert(model, weight_standardization=None)
    assert "never called" in changes(report)["own/spare"].reason
    np.testing.assert_allclose(converted(batch(model)), model(batch(model)), rtol=1e-4, atol=1e-5)


def test_models_with_another_call_than_their_graph_are_not_fused():
    class Own(keras.Model):
        def __init__(self, **kwargs):
            inputs = keras.Input((6, 6, 4))
            x = layers.Activation("silu")(norm("gn", "norm")(inputs))
            super().__init__(inputs, layers.Dense(2, name="head")(x), **kwargs)

        def call(self, x, training=None):
            return self.get_layer("head")(keras.ops.silu(self.get_layer("norm")(x)))

        def get_config(self):
            return {"name": self.name}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    model = randomize(Own())
    converted, report = convert(model)
    assert report.count("fused") == 0 and report.count("replaced") == 1
    x = images(2, 6, 6, 4)
    np.testing.assert_allclose(converted(x), model(x), rtol=1e-4, atol=1e-5)


def test_remat_mode_is_carried_over():
    with keras.RematScope(mode="full"):
        model = functional(layers.Conv2D(4, 3), side=6)
        model = keras.Model(model.inputs, norm("bn", "norm")(model.outputs[0]))
    converted, _ = convert(model, groups=2)
    modes = {layer.name: layer._remat_mode.mode for layer in converted.layers[1:]}
    assert set(modes.values()) == {"full"} and "norm" in modes
