"""What turns a stock layer that has a kernel into a standardized one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from .._keras import NamedInFiles
from .._types import KerasTensor, Shape
from ._common import refuse_tf_keras, supports_jit
from ._kernel_weights import own_kernels
from ._rematerialization import rematerialized
from ._standardized_weights import HasStandardizedWeights, refuse_quantization
from ._weight_scope import WeightScope


def keyword_arguments(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a constructor as keyword arguments, given its `locals()`."""
    given = {name: scope[name] for name in scope if name not in ("self", "__class__", "kwargs")}
    return given | scope["kwargs"]


class Standardized(HasStandardizedWeights, metaclass=NamedInFiles):
    """The first base of a standardized layer, before the stock one: standardizes at each call.

    A `.weights.h5` file addresses the layer by the name of the stock class, so that weights move
    both ways.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Standardized in cls.__bases__:
            cls._weights_name = cls.__bases__[-1].__name__

    def __init__(
        self,
        *,
        variant: str = "bit",
        epsilon: float | None = None,
        gain: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._init_standardization(variant, epsilon, gain)
        self.supports_jit = supports_jit()

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self._build_gains(own_kernels(self))

    def call(self, inputs: KerasTensor) -> KerasTensor:
        refuse_tf_keras(self, inputs)
        with WeightScope(self, lambda: self._standardized(own_kernels(self))):
            return super().call(inputs)

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
