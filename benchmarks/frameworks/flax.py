"""Flax, measured for accuracy only."""

from __future__ import annotations

import flax
import flax.linen
import jax

from ..cases import Norm


def versions() -> dict:
    return {"Flax": flax.__version__, "JAX": jax.__version__}


def load(case: Norm, arrays: dict) -> dict:
    return {name: jax.numpy.asarray(array) for name, array in arrays.items()}


def function(contender: str, case: Norm):
    module = flax.linen.GroupNorm(case.groups, epsilon=1e-3, dtype=case.dtype)

    def forward(x, gamma, beta):
        return module.apply({"params": {"scale": gamma, "bias": beta}}, x)

    @jax.jit
    def both(dy, x, gamma, beta):
        y, backward = jax.vjp(forward, x, gamma, beta)
        return y, *backward(dy)

    return lambda a: both(a["dy"], a["x"], a["gamma"], a["beta"])


def to_numpy(case: Norm, outputs) -> list:
    return [jax.device_get(output) for output in outputs]
