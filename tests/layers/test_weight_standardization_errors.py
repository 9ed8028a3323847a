"""What users read when a standardized layer is misused: it goes by its own name."""

import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_groupnorm.layers import (
    StandardizedConv2D,
    StandardizedDense,
    WeightStandardization,
    _common,
)

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGES = np.ones([2, 5, 5, 3], "float32")
CONFIG = {"filters": 8, "kernel_size": 3, "bogus": 1}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: StandardizedConv2D(8), r"^StandardizedConv2D.__init__\(\).*'kernel_size'"),
        (lambda: StandardizedConv2D(8, 3, bogus=1), "passed to StandardizedConv2D:.*bogus"),
        (lambda: StandardizedDense(8, bogus=1), "passed to StandardizedDense:.*bogus"),
        (
            lambda: StandardizedConv2D.from_config(CONFIG),
            "class 'StandardizedConv2D' using.*passed to StandardizedConv2D:.*bogus",
        ),
        (lambda: StandardizedConv2D(8, 3)(IMAGES[0, 0]), "standardized_conv2d.*ndim=2"),
        (
            lambda: StandardizedConv2D(8, 3).stateless_call([], [], IMAGES),
            "call stateless_call, StandardizedConv2D must be built",
        ),
    ],
)
def test_errors_say_the_name_of_the_class(make, message):
    with pytest.raises((TypeError, ValueError), match=f"(?s){message}") as caught:
        make()
    assert " Conv2D" not in str(caught.value) and "'Conv2D'" not in str(caught.value)


@pytest.mark.parametrize("how", ["eager", "symbolic"])
def test_errors_in_a_call_say_the_name_of_the_class(how):
    layer = StandardizedConv2D(8, 3)
    layer.build((None, 5, 5, 3))
    if how == "eager":
        layer.convolution_op = lambda inputs, kernel: tf.reshape(inputs, [7])
    else:
        layer.compute_output_spec = lambda inputs: tf.reshape(tf.ones([3]), [7])
    x = IMAGES if how == "eager" else keras.Input((5, 5, 3))
    expected = r"when calling StandardizedConv2D.call\(\)(?s:.*)received by StandardizedConv2D.call"
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        layer(x)


@pytest.mark.parametrize(
    "layer", [StandardizedConv2D(8, 3), WeightStandardization(keras.layers.Conv2D(8, 3))]
)
def test_a_tf_keras_model_is_refused(layer, monkeypatch):
    layer(IMAGES)
    context = types.SimpleNamespace(in_call=True, layer=types.SimpleNamespace(name="model"))
    module = types.SimpleNamespace(call_context=lambda: context)
    monkeypatch.setitem(sys.modules, _common._TF_KERAS_CALLS, module)
    with pytest.raises(
        TypeError, match="is a Keras 3 layer.*train nor save.*tf-keras layer model"
    ) as e:
        layer(IMAGES)
    assert " Conv2D" not in str(e.value)
