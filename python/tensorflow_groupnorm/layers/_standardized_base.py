"""What turns a stock layer that has a kernel into a standardized one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import keras

from .._keras import auto_name, inject_argument_info_in_traceback, register
from .._types import KerasTensor, Shape
from ._common import refuse_tf_keras, supports_jit
from ._kernel_weights import own_kernels
from ._rematerialization import rematerialized
from ._standardized_weights import HasStandardizedWeights, refuse_quantization
from ._weight_scope import WeightScope

_Class = TypeVar("_Class", bound=type)


def standardized(cls: _Class) -> _Class:
    """Registers a class of a standardized layer, and gives it the `__name__` of its stock layer.

    A `.weights.h5` file addresses a layer by the `__name__` of its class. With that of the stock
    layer, weights move both ways between a stock and a standardized model. The class is registered
    and exported, and its layers are named, as its definition says: `StandardizedConv2D`.
    """
    registered = register(name=cls.__name__)(cls)
    registered.__name__ = cls.__bases__[-1].__name__
    return registered


def keyword_arguments(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a constructor as keyword arguments, given its `locals()`."""
    given = {name: scope[name] for name in scope if name not in ("self", "__class__", "kwargs")}
    return given | scope["kwargs"]


class Standardized(HasStandardizedWeights):
    """The first base of a standardized layer, before the stock one: standardizes at each call."""

    def __init__(
        self,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        name = auto_name(self._class_name()) if name is None else name
        with self._under_its_name():
            super().__init__(name=name, **kwargs)
        self._init_standardization(variant, epsilon, gain)
        self.supports_jit = supports_jit()

    @classmethod
    def _class_name(cls) -> str:
        return keras.saving.get_registered_name(cls).split(">")[-1]

    def __repr__(self) -> str:
        return f"<{self._class_name()} name={self.name}, built={self.built}>"

    @classmethod
    @contextlib.contextmanager
    def _under_its_name(cls) -> Iterator[None]:
        """Puts the name of this class into errors in which Keras puts its `__name__`."""
        try:
            yield
        except (TypeError, ValueError) as error:
            if error.args and isinstance(error.args[0], str):
                words = re.sub(rf"\b{cls.__name__}\b", cls._class_name(), error.args[0])
                error.args = (words, *error.args[1:])
            raise

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Standardized:
        with cls._under_its_name():
            return super().from_config(config)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self._build_gains(own_kernels(self))

    def call(self, inputs: KerasTensor) -> KerasTensor:
        return self._with_its_name(self._call)(inputs)

    def _call(self, inputs: KerasTensor) -> KerasTensor:
        refuse_tf_keras(self, inputs)
        with WeightScope(self, lambda: self._standardized(own_kernels(self))):
            return super().call(inputs)

    def symbolic_call(self, *args: Any, **kwargs: Any) -> KerasTensor:
        return self._with_its_name(super().symbolic_call)(*args, **kwargs)

    def _with_its_name(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Has Keras report errors of a function as of this class; the innermost report counts."""
        return inject_argument_info_in_traceback(function, f"{self._class_name()}.call()")

    def stateless_call(self, *args: Any, **kwargs: Any) -> Any:
        with self._under_its_name():
            return super().stateless_call(*args, **kwargs)

    def rematerialized_call(
        self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Callable[..., Any]:
        return rematerialized(self, super().rematerialized_call, layer_call, *args, **kwargs)

    def quantize(self, mode: str | None = None, **kwargs: Any) -> None:
        refuse_quantization(self, mode)

    def save_own_variables(self, store: Any) -> None:
        # The methods of the stock layers know nothing of a gain.
        if self.use_gain:
            keras.layers.Layer.save_own_variables(self, store)
        else:
            super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        if self.use_gain:
            keras.layers.Layer.load_own_variables(self, store)
        else:
            super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._standardization_config()}
