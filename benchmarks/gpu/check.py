"""Compares the kernels with float64 PyTorch on random numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import torch

from tests.support.cases import EMPTY, GROUP_NORM, LARGE, VECTOR_EDGES

from .library import ABSENT, ACTIVATIONS, DTYPES, PER_CHANNEL, PER_SAMPLE, GroupNorm, Library

EPSILON = 1e-3
#: Of the arithmetic and of the storage of each type.
ARITHMETIC = {torch.float64: 2.0**-52}
STORAGE = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SMALLEST_FLOAT16 = 2.0**-24
FUZZ_ELEMENTS = 1 << 20


def listed() -> Iterator[tuple[GroupNorm, torch.dtype, float]]:
    """Yields the shapes of `tests/support/cases.py` in every dtype and activation; large means."""
    for case in {**GROUP_NORM, **VECTOR_EDGES, **LARGE, **EMPTY}.values():
        axis = case.axis % len(case.shape)
        for dtype in DTYPES:
            for activation in ACTIVATIONS:
                norm = GroupNorm(case.shape, axis, case.groups, EPSILON, activation, side=True)
                yield norm, dtype, 0.5
        yield GroupNorm(case.shape, axis, case.groups), torch.float32, 1e4


def fuzz(seed: int, count: int) -> Iterator[tuple[GroupNorm, torch.dtype, float]]:
    """Yields random shapes, groups, axes and options."""
    choose = random.Random(seed)
    for _ in range(count):
        rank, left, shape = choose.randint(2, 5), FUZZ_ELEMENTS, []
        axis = choose.randrange(1, rank)
        for _ in range(rank):
            shape.append(min(left, math.ceil(2 ** choose.uniform(0, 13))))
            left = max(1, left // shape[-1])
        divisors = [g for g in range(1, shape[axis] + 1) if shape[axis] % g == 0]
        norm = GroupNorm(
            tuple(shape),
            axis,
            choose.choice(divisors),
            EPSILON,
            choose.choice(ACTIVATIONS),
            choose.choice((ABSENT, PER_CHANNEL, PER_SAMPLE)),
            choose.choice((ABSENT, PER_CHANNEL, PER_SAMPLE)),
            choose.random() < 0.5,
        )
        yield norm, choose.choice(list(DTYPES)), choose.choice((0.0, 0.5, 30.0))


def failures(
    library: Library, norm: GroupNorm, dtype: torch.dtype, mean: float, seed: int
) -> list[str]:
    """Returns a sentence for each error in the results for a case."""
    torch.manual_seed(seed)
    params = torch.float64 if dtype == torch.float64 else torch.float32

    def noise(shape, offset=0.0, kind=dtype):
        return (torch.randn(shape, dtype=torch.float64, device=library.device) + offset).to(kind)

    def poisoned(shape, kind=dtype):
        return torch.full(shape, float("nan"), dtype=kind, device=library.device)

    x, dy = noise(norm.shape, mean), noise(norm.shape)
    side = noise(norm.shape) if norm.side else None
    gamma = noise(norm.affine_shape(norm.gamma), 1.0, params)
    beta = noise(norm.affine_shape(norm.beta), 0.0, params)
    runs = []
    for _ in range(2):
        y, dx = poisoned(norm.shape), poisoned(norm.shape)
        dside = poisoned(norm.shape) if norm.side else None
        saved = [poisoned((norm.shape[0], norm.groups), params) for _ in range(2)]
        dgamma, dbeta = poisoned(gamma.shape, params), poisoned(beta.shape, params)
        workspace = library.workspace(norm, dtype)
        library.forward(norm, workspace, x, gamma, beta, side, y, *saved)
        library.backward(
            norm, workspace, dy, x, gamma, beta, *saved, side, dx, dgamma, dbeta, dside
        )
        library.synchronize()
        runs.append({"y": y, "mean": saved[0], "rstd": saved[1], "dx": dx, "dgamma": dgamma})
        runs[-1].update({"dbeta": dbeta} | ({} if dside is None else {"dside": dside}))
    expected, offset, rstd = _reference(norm, x, gamma, beta, side, dy)

    sentences = []
    unit = ARITHMETIC.get(dtype, 2.0**-24)
    largest = float(offset.max()) if offset.numel() else 0.0
    scale = _spread(norm, gamma.double(), 1.0, norm.gamma).abs()
    for name, actual in runs[0].items():
        if not torch.equal(actual, runs[1][name]) and not actual.isnan().any():
            sentences.append(f"{name} differs from run to run")
        if name in ("mean", "rstd"):
            continue
        error, size = (actual.double() - expected[name]).norm(), expected[name].norm()
        if name == "dx":  # of terms that may cancel, as they do in a group of one element
            size = torch.maximum(size, (dy.double() * scale * rstd).norm())
        if name in ("dgamma", "dbeta"):
            storage, tiny = 0.0, 0.0
        else:
            storage = STORAGE.get(dtype, 0.0)
            tiny = SMALLEST_FLOAT16 * (dtype == torch.float16) * math.sqrt(actual.numel())
        bound = size * (64 * unit * (1 + largest) + storage) + tiny
        if not error <= bound + 1e-300:
            sentences.append(f"the error of {name} is {error:.3g} in norm, {bound:.3g} is allowed")
    if runs[0]["y"].numel():
        bound = unit * (8 * (1 + offset) * scale + 2 * expected["y"].abs() + 4)
        bound = (
            bound
            + STORAGE.get(dtype, 0.0) * (expected["y"].abs() + bound)
            + 2.0**-24 * (dtype == torch.float16)
        )
        worst = ((runs[0]["y"].double() - expected["y"]).abs() / bound).max()
        if not worst <= 1:
            sentences.append(f"an error of y is {worst:.3g} times the bound")
    return sentences


def _spread(norm: GroupNorm, values: torch.Tensor, absent: float, affine: int) -> torch.Tensor:
    """Returns gamma or beta in a shape that broadcasts to x."""
    rest = [1] * (len(norm.shape) - norm.axis - 1)
    between = [1] * (norm.axis - 1)
    if affine == ABSENT:
        return values.new_full([1] * len(norm.shape), absent)
    samples = norm.shape[0] if affine == PER_SAMPLE else 1
    return values.reshape(samples, *between, norm.channels, *rest)


def _reference(norm, x, gamma, beta, side, dy):
    """Returns float64 outputs by autograd, and |mean| * rstd and rstd of each element."""
    leaves = [t.double().detach().requires_grad_() for t in (x, gamma, beta)]
    sides = [] if side is None else [side.double().detach().requires_grad_()]
    rest = [norm.channels // norm.groups, *norm.shape[norm.axis + 1 :]]
    grouped = leaves[0].reshape(*norm.shape[: norm.axis], norm.groups, *rest)
    axes = [i for i in range(1, grouped.dim()) if i != norm.axis]
    mean = grouped.mean(axes, keepdim=True)
    rstd = ((grouped - mean).square().mean(axes, keepdim=True) + norm.epsilon).rsqrt()
    z = ((grouped - mean) * rstd).reshape(norm.shape)
    z = z * _spread(norm, leaves[1], 1.0, norm.gamma) + _spread(norm, leaves[2], 0.0, norm.beta)
    for extra in sides:
        z = z + extra
    activation = {"relu": torch.relu, "silu": torch.nn.functional.silu}.get(norm.activation)
    y = z if activation is None else activation(z)
    gradients = torch.autograd.grad(y, leaves + sides, dy.double(), allow_unused=True)
    names = ("dx", "dgamma", "dbeta", "dside")
    expected = {"y": y.detach()}
    for name, leaf, gradient in zip(names, leaves + sides, gradients, strict=False):
        expected[name] = torch.zeros_like(leaf) if gradient is None else gradient
    offset, rstd = (
        t.detach().expand(grouped.shape).reshape(norm.shape) for t in (mean.abs() * rstd, rstd)
    )
    return expected, offset, rstd


def weights(library: Library, seed: int) -> list[str]:
    """Returns a sentence for each error in weight standardization."""
    sentences = []
    for fan_in, outputs in ((27, 16), (147, 64), (576, 64), (4608, 512), (9, 1000), (100_000, 3)):
        torch.manual_seed(seed)
        w = torch.randn(fan_in, outputs, device=library.device) * 0.02 + 0.01
        gain, dw_hat = torch.randn(outputs, device=library.device), torch.randn_like(w)
        w_hat, dw = (torch.full_like(w, float("nan")) for _ in range(2))
        mean, rstd, dgain = (torch.full_like(gain, float("nan")) for _ in range(3))
        library.standardize_weights(1e-5, w, gain, w_hat, mean, rstd, dw_hat, dw, dgain)
        library.synchronize()
        leaves = [t.double().detach().requires_grad_() for t in (w, gain)]
        centered = leaves[0] - leaves[0].mean(0)
        expected = centered * (centered.square().mean(0) + 1e-5).rsqrt() * leaves[1]
        gradients = torch.autograd.grad(expected, leaves, dw_hat.double())
        for name, actual, value in (
            ("w_hat", w_hat, expected.detach()),
            ("dw", dw, gradients[0]),
            ("dgain", dgain, gradients[1]),
        ):
            error = float((actual.double() - value).norm() / value.norm())
            if not error <= 128 * 2.0**-24:
                sentences.append(
                    f"the error of {name} for w of shape [{fan_in},{outputs}] is {error:.3g}"
                )
    return sentences
