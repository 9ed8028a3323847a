"""`tfgn.convert`: what it sees of code of others, what it names and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from composites import Configured, Helper, InInit, Nested, batch, functional, norm, register
from conversions import Fused, changes, convert, images, randomize
from keras import layers

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@register
class Head(Configured):
    """A prediction head: its last convolution gives logits."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tower = [layers.Conv2D(4, 3, padding="same", name="tower"), norm(self.kind, "norm")]
        self.logits = layers.Conv2D(3, 1, name="logits")
        self.calls = self.add_weight(name="calls", trainable=False, initializer="zeros")

    def call(self, x, training=None):
        self.calls.assign_add(1.0)
        for layer in self.tower:
            x = layer(x)
        return self.logits(keras.ops.relu(x))


class HeadOfTensorFlow(Head):
    def call(self, x):
        for layer in self.tower:
            x = layer(x)
        return self.logits(tf.nn.relu(x))


def test_what_follows_a_convolution_in_code_is_seen():
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(4, 1, name="before")(inputs)
    outputs = [Head(kind="bn", name="head")(x), Nested(kind="bn", name="other")(x)]
    model = randomize(keras.Model(inputs, outputs))
    nodes = [(len(a._inbound_nodes), len(a._outbound_nodes)) for a in model._flatten_layers()]
    calls = float(model.get_layer("head").calls)
    _, report = convert(model, groups=2)
    found = changes(report)
    assert found["head/tower"].action == "replaced" and not found["head/tower"].reason
    assert found["head/logits"].reason == "its output leaves the model without a normalization"
    assert found["other/inner/block/conv"].action == "replaced"
    # Nothing that the call does reaches the model, and no call is left in its layers.
    assert float(model.get_layer("head").calls) == calls
    after = [(len(a._inbound_nodes), len(a._outbound_nodes)) for a in model._flatten_layers()]
    assert after == nodes


def test_what_follows_a_convolution_in_other_code_is_assumed():
    model = functional(HeadOfTensorFlow(kind="bn", name="own"))
    _, report = convert(model, groups=2)
    assert "assumed to be a normalization" in changes(report)["own/logits"].reason


@register
class PreActivation(Configured):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm(self.kind, "norm")
        self.conv = layers.Conv2D(self.filters, 3, padding="same", name="conv")

    def call(self, x):
        return self.conv(keras.ops.relu(self.norm(x)))


def test_convolution_before_a_block_that_begins_with_a_normalization():
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(4, 1, name="before")(inputs)
    x = PreActivation(kind="bn", name="first")(x)
    model = keras.Model(inputs, PreActivation(kind="bn", name="second")(x))
    _, report = convert(model, groups=2)
    actions = {name: change.action for name, change in changes(report).items()}
    assert actions["before"] == actions["first/conv"] == "replaced"
    assert actions["second/conv"] == "kept"


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
        "Keras neither trains nor saves layers that only plain Python objects hold: "
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


class Sized(Configured):
    """Its config does not say how wide it is."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm("gn", "norm")
        self.dense = layers.Dense(width, name="dense")

    def call(self, x):
        return self.dense(self.norm(x))


def test_weights_of_other_shapes_are_named():
    model = functional(Sized(width=6, name="own"))
    shapes = r"\[\(6, 2\), \(2,\)\] in the model, and \[\(4, 2\), \(2,\)\] in a copy"
    with pytest.raises(ValueError, match=f"The Dense 'head' cannot be copied.*{shapes}"):
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


@pytest.mark.parametrize("mode", ["full", "larger_than"])
def test_remat_mode_is_carried_over(mode):
    inputs = keras.Input((6, 4))
    with keras.RematScope(mode=mode, output_size_threshold=1):
        x = layers.DepthwiseConv1D(3, name="conv")(inputs)
        x = norm("bn", "norm")(x)
    # Keras itself cannot train a rematerialized Dense in a graph.
    model = randomize(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    converted, _ = convert(model, groups=2)
    for layer in converted.layers[1:-1]:
        assert layer._remat_mode.mode == mode
    wrapper = converted.get_layer("conv")
    assert wrapper.layer._remat_mode.mode == mode
    converted.compile("sgd", "mse")
    before = [np.array(w) for w in converted.trainable_weights]
    converted.fit(images(2, 6, 4), np.zeros((2, 4, 2)), verbose=0)
    for value, weight in zip(before, converted.trainable_weights, strict=True):
        assert not np.array_equal(value, weight), weight.path
