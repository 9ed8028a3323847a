"""`tfgn.convert(model, save_memory=True)`: layers and models of classes of one's own."""

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from conversions import convert, images, randomize
from keras import layers
from pairs import ONLY_PAIRS, answer, check_equal, check_round_trip, conv, norm, paired, pairs

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@keras.saving.register_keras_serializable("pairs")
class Block(layers.Layer):
    """A layer with a `call` of its own, and a model in an attribute."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm("outside")
        inner = [keras.Input((8, 8, 8)), norm("within"), conv(name="reader")]
        self.body = keras.Sequential(inner, name="body")

    def call(self, x):
        return self.body(self.norm(x))


@keras.saving.register_keras_serializable("pairs")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = conv(8)
        self.block = Block(name="block")

    def call(self, x):
        return self.block(self.first(x))


@keras.saving.register_keras_serializable("pairs")
class Recorded(keras.Model):
    """A functional model of a class of its own, which a constructor makes again."""

    def __init__(self, width=8, **kwargs):
        inputs = keras.Input((8, 8, 3))
        self_conv = conv(width, name="first")
        x = norm()(self_conv(inputs))
        last = conv(4, name="second")
        super().__init__(inputs, norm("end")(last(x)), **kwargs)
        self.width, self.last = width, last

    def get_config(self):
        return {"width": self.width, "name": self.name}


@pytest.mark.parametrize("in_place", [False, True])
def test_models_of_classes_of_their_own(in_place, tmp_path):
    model = Subclassed()
    model(images())
    randomize(model)
    before = np.array(model(images()))
    new, report = convert(model, save_memory=True, in_place=in_place, **ONLY_PAIRS)
    assert [layer.name for layer in pairs(new)] == ["within"]
    assert answer(report, "block/outside")[2].startswith("no graph of a model calls it")
    np.testing.assert_array_equal(new(images()), before)
    loaded = check_round_trip(new, images(), tmp_path)
    assert isinstance(loaded, Subclassed) and len(pairs(loaded)) == 1


@pytest.mark.parametrize("in_place", [False, True])
def test_functional_models_of_classes_of_their_own(in_place, tmp_path):
    model = randomize(Recorded(name="own"))
    before = np.array(model(images()))
    new, _ = convert(model, save_memory=True, in_place=in_place, **ONLY_PAIRS)
    (pair,) = pairs(new)
    assert new.last is pair.layers[0] and isinstance(new, Recorded)
    np.testing.assert_array_equal(new(images()), before)
    loaded = check_round_trip(new, images(), tmp_path)
    assert isinstance(loaded, Recorded) and loaded.last is pairs(loaded)[0].layers[0]
    again, _ = convert(loaded, save_memory=True, **ONLY_PAIRS)
    assert len(pairs(again)) == 1
    check_round_trip(again, images(), tmp_path)


def test_a_layer_in_a_pair_is_replaced_in_a_class_of_its_own(tmp_path):
    model = randomize(Recorded(name="own"))
    once, _ = convert(model, save_memory=True, **ONLY_PAIRS)
    new, report = convert(once)
    assert report.count("replaced") == 2
    (pair,) = pairs(new)
    assert type(pair.layers[0]) is tfgn.layers.StandardizedConv2D and new.last is pair.layers[0]
    plain, _ = convert(model)
    check_equal(plain, new, images())
    check_round_trip(new, images(), tmp_path)


def test_a_replaced_layer_is_paired_in_a_class_of_its_own(tmp_path):
    model = randomize(Recorded(name="own"))
    new, report = paired(model, images())
    assert report.count("replaced") == 2 and len(pairs(new)) == 1
    check_round_trip(new, images(), tmp_path)
