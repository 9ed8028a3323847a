"""Each name of `_keras`, so that a Keras that lacks one of them fails here, with its name."""

import ast
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn
from keras import layers
from tensorflow_groupnorm import _keras

PACKAGE = Path(tfgn.__file__).parent


def model():
    inputs = keras.Input((4,))
    x = keras.ops.relu(keras.ops.add(layers.Dense(4, name="dense")(inputs), inputs))
    return keras.Model(inputs, keras.ops.silu(x))


def add_relu_and_silu():
    kinds = {type(operation) for operation in model().operations}
    assert {_keras.AddOperation, _keras.SiluOperation} < kinds
    assert kinds & {_keras.ReluActivation, _keras.ReluOperation}
    x = keras.activations.relu(keras.Input((4,)), negative_slope=0.5)
    operation = x._keras_history.operation
    assert type(operation) is _keras.ReluActivation and operation.negative_slope == 0.5


def linear_operations():
    x = keras.Input((4,))
    results = [x + x, x - x, keras.ops.concatenate([x, x]), keras.ops.mean(x, axis=1)]
    kinds = {type(y._keras_history.operation) for y in results}
    assert kinds == {*_keras.LinearOperations}


def autocast():
    with _keras.AutocastScope("float16"):
        assert _keras.get_autocast_scope().dtype == "float16"
        precision = _keras.current_precision()
    assert _keras.get_autocast_scope() is None
    with precision:
        assert _keras.get_autocast_scope().dtype == "float16"


def stateless():
    assert not _keras.in_stateless_scope()
    with keras.StatelessScope() as scope:
        assert _keras.get_stateless_scope() is scope and _keras.in_stateless_scope()
        with _keras.stateless_scope(None):
            assert not _keras.in_stateless_scope()
        assert _keras.get_stateless_scope() is scope


def remat():
    with keras.RematScope(mode="larger_than", output_size_threshold=7):
        layer = layers.Dense(2)
    assert layer._remat_mode == _keras.RematMode("larger_than", 7, [])
    with _keras.rematerialized_like(layer):
        assert layers.Dense(2)._remat_mode == layer._remat_mode
    with keras.RematScope("full"), _keras.rematerialized_like(layers.Dense(2)):
        pass
    other = layers.Dense(2)
    layer.trainable = False
    layer(np.ones((1, 2)))
    _keras.inherit_state(layer, other)
    assert (other._remat_mode, other.trainable, other._called) == (layer._remat_mode, False, True)


def graphs():
    own = model()
    assert isinstance(own, _keras.Functional)
    assert _keras.functional_like_constructor(type(own))
    (node,) = own.get_layer("dense")._inbound_nodes
    assert _keras.is_in_graph(own, node)
    new = layers.Dense(4, name="new")
    new.build((None, 4))
    _keras.Node(new, node.arguments.args, node.arguments.kwargs, node.outputs)
    _keras.refresh_graph(own)
    assert own.get_layer("new") is new and own._layers == own.layers
    assert not _keras.is_in_graph(own, node)
    assert own(np.ones((1, 4))).shape == (1, 4)


def between():
    own = model()
    dense, relu = own.get_layer("dense").output, own.operations[3].output
    found = [type(operation) for operation in _keras.operations_between([dense], [relu])]
    assert found == [layers.InputLayer, _keras.AddOperation, type(own.operations[3])]


def functional_classes():
    class Own(keras.Model):
        pass

    assert not issubclass(Own, _keras.Functional)
    _keras.make_functional(Own)
    assert issubclass(Own, _keras.Functional)
    bases = Own.__bases__
    _keras.make_functional(Own)
    _keras.make_functional(keras.Sequential)
    assert Own.__bases__ == bases and not issubclass(keras.Sequential, _keras.Functional)


def tracking():
    class Holder(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(2)

    holder, new = Holder(), layers.Dense(2)
    holder.built = True
    holder._lock_state()
    _keras.replace_tracked(holder, holder.inner, new)
    assert holder._layers == [new]
    _keras.replace_tracked(holder, layers.Dense(2), layers.Dense(2))
    assert holder._layers == [new]


def building():
    class Chain(layers.Layer):
        def __init__(self):
            super().__init__(name="chain")
            self.dense = layers.Dense(2, name="dense")

        def call(self, x):
            return self.dense(x)

    chain = Chain()
    assert _keras.is_default(chain.build) and not _keras.is_default(chain.dense.build)
    with _keras.name_scopes("a/b"):
        _keras.build_by_run(chain, {"input_shape": (None, 3)})
    assert chain.built and chain.dense.kernel.path == "a/b/chain/dense/kernel"


def places():
    class Holder(layers.Layer):
        def build(self, input_shape):
            self.dense = layers.Dense(2, name="dense")
            _keras.take_place(self.dense, self)
            self.dense.build(input_shape)

    holder = Holder(name="holder")
    with keras.name_scope("outside"):
        holder.build((None, 3))
    assert holder.dense.kernel.path == "outside/dense/kernel"


def masks():
    masked = layers.Masking()(keras.Input((5, 3)))
    assert _keras.get_keras_mask(masked).shape == (None, 5)
    assert _keras.get_keras_mask(keras.Input((5, 3))) is None


def saving():
    config = keras.saving.serialize_keras_object(layers.Activation("relu"))
    with _keras.SafeModeScope(False):
        assert keras.saving.deserialize_keras_object(config).activation is keras.activations.relu


def registration():
    @_keras.register(name="Registered")
    class Registered(layers.Layer):
        pass

    assert keras.saving.get_registered_name(Registered) == "tensorflow_groupnorm>Registered"
    assert _keras.on_tensorflow() == (keras.backend.backend() == "tensorflow")


def classes():
    config = keras.saving.serialize_keras_object(layers.Dense(2))
    assert _keras.find_class(config) is layers.Dense
    config["class_name"] = "Other"
    assert _keras.find_class(config) is None
    config["module"], config["registered_name"] = "others", "Other"
    assert _keras.find_class(config, {"Other": layers.Dense}) is layers.Dense


def names():
    """`test_names` in `test_weight_standardization.py` has Keras write files."""
    cls = _keras.NamedInFiles("Own", (), {"_weights_name": "Stock", "__module__": "theirs"})
    cls_of_ours = _keras.NamedInFiles("Ours", (), {"__module__": "tensorflow_groupnorm.a._b"})
    read = "def read(cls): return cls.__name__"
    names = []
    writers = (_keras._WEIGHTS_FILES, _keras._CONFIGS)
    for writer in writers:
        importlib.import_module(writer)
    for reader in (*writers, "another"):
        scope = {"__name__": reader}
        exec(read, scope)
        names += [scope["read"](cls), scope["read"](cls_of_ours)]
    assert names == ["Stock", "Ours", "Own", "tensorflow_groupnorm.a.Ours", "Own", "Ours"]


def signatures():
    (spec,) = _keras.get_input_signature(model())
    assert _keras.make_tf_tensor_spec(spec).shape == (None, 4)


def converters():
    """`tests/export/test_keras_export.py` has Keras convert models."""
    for name in _keras._CONVERTERS:
        assert importlib.import_module(name).__name__ == name
    assert not _keras.in_converter()
    scope = {"__name__": name, "in_converter": _keras.in_converter}
    exec("def export(): return in_converter()", scope)
    assert scope["export"]()


EXERCISES = {
    add_relu_and_silu: ["AddOperation", "ReluActivation", "ReluOperation", "SiluOperation"],
    linear_operations: ["LinearOperations"],
    autocast: ["AutocastScope", "current_precision", "get_autocast_scope"],
    stateless: ["get_stateless_scope", "in_stateless_scope", "stateless_scope"],
    remat: ["RematMode", "rematerialized_like", "inherit_state"],
    graphs: ["Functional", "Node", "functional_like_constructor", "is_in_graph", "refresh_graph"],
    between: ["operations_between"],
    functional_classes: ["make_functional"],
    tracking: ["replace_tracked"],
    building: ["build_by_run", "is_default", "name_scopes"],
    places: ["take_place"],
    masks: ["get_keras_mask"],
    saving: ["SafeModeScope"],
    registration: ["on_tensorflow", "register"],
    classes: ["find_class"],
    names: ["NamedInFiles"],
    converters: ["in_converter"],
    signatures: ["get_input_signature", "make_tf_tensor_spec"],
}


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda function: function.__name__)
def test_what_keras_has(exercise):
    exercise()


def test_each_name_is_exercised():
    exercised = sorted(name for names in EXERCISES.values() for name in names)
    assert exercised == sorted(_keras.__all__)


def test_no_other_module_imports_what_keras_does_not_promise():
    for path in PACKAGE.rglob("*.py"):
        modules = [
            name
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in getattr(node, "names", [])]
                if isinstance(node, ast.Import)
                else []
            )
        ]
        inner = [name for name in modules if name.startswith("keras.src")]
        assert not inner or path.name == "_keras.py", f"{path.relative_to(PACKAGE)}: {inner}"
