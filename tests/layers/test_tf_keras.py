"""Layers in a tf-keras model, which would neither train nor save their weights."""

import sys
import types

import extra_packages
import pytest
import tensorflow as tf
from tensorflow_groupnorm.layers import GroupNormalization, _common

MODELS = """
import numpy as np, tensorflow as tf, tf_keras
from tensorflow_groupnorm.layers import GroupNormalization

x = np.ones([2, 4, 4, 8], "float32")

class Subclass(tf_keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.norm = GroupNormalization(4)

    def call(self, x):
        return self.norm(x)

def functional():
    return GroupNormalization(4)(tf_keras.Input((4, 4, 8)))

def nested():
    return Subclass()(tf_keras.Input((4, 4, 8)))

def fitted():
    model = tf_keras.Sequential([tf_keras.layers.Conv2D(8, 1), Subclass()])
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)

def built_before():
    layer = Subclass()
    layer.norm.build(x.shape)
    return layer(x)

for use in (functional, nested, fitted, built_before):
    try:
        print(use.__name__, use())
    except TypeError as error:
        print(use.__name__, str(error).replace(chr(10), " "))
# A Keras 3 layer beside tf-keras models is as it was.
print("alone", GroupNormalization(4)(x).shape)
"""


@pytest.fixture
def calls(monkeypatch):
    """What tf-keras knows of its calls: `calls.in_call` and `calls.layer`."""
    context = types.SimpleNamespace(in_call=False, layer=None)
    module = types.SimpleNamespace(call_context=lambda: context)
    monkeypatch.setitem(sys.modules, _common._TF_KERAS_CALLS, module)
    return context


def test_refuses_the_call_of_a_tf_keras_layer(calls):
    layer, x = GroupNormalization(4, name="norm"), tf.ones([2, 3, 8])
    layer(x)
    calls.in_call, calls.layer = True, types.SimpleNamespace(name="model")
    with pytest.raises(TypeError, match="Keras 3 layer.*train nor save.*tfgn convert.*norm.*model"):
        layer(x)


def test_refuses_tensors_of_a_tf_keras_model(calls):
    symbolic = type("KerasTensor", (), {"__module__": "tf_keras.src.engine.keras_tensor"})()
    with pytest.raises(TypeError, match="Keras 3 layer.*norm on a tensor of a tf-keras model"):
        _common.refuse_tf_keras(GroupNormalization(4, name="norm"), symbolic)
    assert not calls.in_call


@pytest.mark.servers
def test_in_real_tf_keras_models(run_python):
    version = ".".join(tf.__version__.split(".")[:2])
    run = run_python(MODELS, **extra_packages.environment("tf_keras", f"tf-keras=={version}.*"))
    assert run.returncode == 0, run.stderr
    *refused, alone = run.stdout.splitlines()
    assert [line.split()[0] for line in refused] == [
        "functional",
        "nested",
        "fitted",
        "built_before",
    ]
    for line in refused:
        assert "is a Keras 3 layer: a tf-keras model would neither train nor save" in line
    assert alone == "alone (2, 4, 4, 8)"
