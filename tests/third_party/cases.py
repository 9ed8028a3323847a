"""What is said of a model besides how it is built."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of another package.

    Attributes:
        name: of the package and the model.
        build: returns the model.
        modules: what a process has to import before it loads a file that has the model.
        batch: makes a batch of inputs from the model; by default random numbers of the shapes
            and dtypes of the model's symbolic inputs.
        custom_objects: returns what `load_model` has to be told, for packages that register
            nothing.
        safe_mode: of `load_model`; False for models with a Lambda layer.
        impossible: what cannot be done, a dict from the name of a step to a pattern that the error
            matches and the reason. A step that is said to be impossible has to fail.
        arguments: of `tfgn.convert`.
        kept: how many BatchNormalization layers nothing can replace.
        environment: variables that its processes need.
        tolerance: the largest difference from the oracle, relative to the largest magnitude.
    """

    name: str
    build: Callable
    modules: tuple[str, ...]
    batch: Callable | None = None
    custom_objects: Callable[[], dict] = dict
    safe_mode: bool = True
    impossible: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    kept: int = 0
    arguments: Mapping = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerance: float = 1e-3


class Package:
    """Collects the models of a package: `@package.model(**attributes of Case)`."""

    def __init__(self, name, *modules, custom_objects=dict):
        self.name = name
        self.modules = modules
        self.custom_objects = custom_objects
        self.cases = []

    def model(self, **attributes):
        def register(build):
            name = f"{self.name}-{build.__name__}"
            given = {"custom_objects": self.custom_objects, **attributes}
            self.cases.append(Case(name, build, self.modules, **given))
            return build

        return register


def layer_classes(*modules):
    """Returns the layers, models among them, that modules define or import, by name."""
    import keras

    found = {}
    for module in modules:
        for name, value in vars(importlib.import_module(module)).items():
            if isinstance(value, type) and issubclass(value, keras.layers.Layer):
                found[name] = value
    return found


def all_cases():
    """Returns all models by name. It imports none of their packages."""
    from . import models

    modules = sorted(module.name for module in pkgutil.iter_modules(models.__path__))
    packages = [importlib.import_module(f"{models.__name__}.{name}").package for name in modules]
    return {case.name: case for package in packages for case in package.cases}
