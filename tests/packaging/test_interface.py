"""The public interface as an editor, `help()` and a type checker show it."""

import inspect
import typing

import keras
import pytest
import tensorflow_groupnorm as tfgn

PACKAGES = [tfgn, tfgn.layers, tfgn.models, tfgn.stock]
# The names of `tfgn` that are not documented on their own: modules, and an object of raw ops.
OTHERS = {"layers", "models", "raw_ops", "stock"}
PUBLIC = {
    f"{package.__name__.removeprefix('tensorflow_groupnorm').lstrip('.') or 'tfgn'}.{name}": value
    for package in PACKAGES
    for name in package.__all__
    if name not in OTHERS
    for value in [getattr(package, name)]
}
STANDARDIZED = {
    name: value for name, value in vars(tfgn.layers).items() if name.startswith("Standardized")
}
# What a standardized layer adds to the arguments of its stock layer.
ADDED = {"variant": "bit", "epsilon": None, "gain": False}
# Arguments of Keras layers that only some of the supported versions of Keras have.
NOT_IN_EVERY_KERAS = {"quantization_config"}


def methods(kind):
    """The public functions that a class of this package defines, and its constructor."""
    for owner in kind.__mro__:
        if owner.__module__.split(".")[0] == "tensorflow_groupnorm":
            for name, value in vars(owner).items():
                function = getattr(value, "__func__", value)
                if inspect.isfunction(function) and (name == "__init__" or name[0] != "_"):
                    yield f"{kind.__qualname__}.{name}", function


def missing_hints(name, function):
    parameters = list(inspect.signature(function).parameters.values())
    if "." in name:
        parameters = parameters[1:]  # self or cls
    hints = typing.get_type_hints(function)  # Fails for a hint that names nothing.
    return [
        f"{name}: {part}"
        for part in [*(parameter.name for parameter in parameters), "return"]
        if part not in hints
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_has_a_docstring_and_hints(name):
    value = PUBLIC[name]
    assert len(value.__doc__.splitlines()[0]) > 20
    if issubclass(type(value), type):
        functions = list(methods(value))
    else:
        functions = [(value.__name__, value)]
    assert [hint for function in functions for hint in missing_hints(*function)] == []


@pytest.mark.parametrize("name", STANDARDIZED)
def test_standardized_layers_show_the_arguments_of_the_stock_layer_and_their_own(name):
    layer = STANDARDIZED[name]
    stock = getattr(keras.layers, name.removeprefix("Standardized"))
    expected = dict(inspect.signature(stock).parameters)
    actual = dict(inspect.signature(layer).parameters)
    own = {argument: actual.pop(argument) for argument in ADDED}
    assert {argument: own[argument].default for argument in ADDED} == ADDED
    assert {parameter.kind for parameter in own.values()} == {inspect.Parameter.KEYWORD_ONLY}
    names = [argument for argument in expected if argument not in NOT_IN_EVERY_KERAS]
    assert list(actual) == names
    for argument in names:
        assert actual[argument].default == expected[argument].default
        assert actual[argument].kind == expected[argument].kind


def test_group_normalization_takes_the_arguments_of_the_stock_layer_in_their_order():
    expected = list(inspect.signature(keras.layers.GroupNormalization).parameters)
    actual = inspect.signature(tfgn.layers.GroupNormalization).parameters
    positional = [
        name for name, parameter in actual.items() if parameter.kind != parameter.KEYWORD_ONLY
    ]
    assert positional == expected
