"""PyTorch, with the memory format that matches the layout of the case."""

from __future__ import annotations

import math
import os

import torch

from ..cases import Calls, Case, Inference, Norm, Weights
from ..export import contenders, torch_networks

torch.set_num_threads(len(os.sched_getaffinity(0)))


def versions() -> dict:
    return {"PyTorch": torch.__version__}


def load(case: Case, arrays: dict) -> dict:
    if isinstance(case, Weights):
        # PyTorch stores kernels with the output channels first.
        return {
            name: [_tensor(w).permute(3, 2, 0, 1).contiguous().requires_grad_() for w in kernels]
            for name, kernels in arrays.items()
        }
    tensors = {name: _tensor(array) for name, array in arrays.items()}
    if isinstance(case, Inference):
        return {name: tensor.movedim(-1, 1).contiguous() for name, tensor in tensors.items()}
    for name in ("x", "dy"):
        # A view: the strides of memory_format=channels_last.
        tensors[name] = tensors[name].movedim(case.inputs.axis, 1)
    for name in ("x", "gamma", "beta"):
        tensors[name].requires_grad_()
    return tensors


def _tensor(array):
    if array.dtype.name == "bfloat16":
        return torch.tensor(array.view("int16")).view(torch.bfloat16)
    return torch.tensor(array)  # A copy with PyTorch's alignment.


def function(contender: str, case: Case):
    if isinstance(case, Inference):
        return _network(contender, case)
    if isinstance(case, Calls):
        return _calls(case)
    return _group_norm(case) if isinstance(case, Norm) else _weights(case)


def _network(contender: str, case: Inference):
    network = torch_networks.build(case.network)
    if contender == contenders.TORCH_COMPILED:
        network = torch.compile(network)

    def call(inputs):
        with torch.inference_mode():
            return network(*inputs.values())

    return call


def _group_norm(case: Norm):
    def forward(a):
        return torch.nn.functional.group_norm(a["x"], case.groups, a["gamma"], a["beta"], 1e-3)

    def forward_only(a):
        with torch.no_grad():
            return [forward(a)]

    def both(a):
        y = forward(a)
        return [y, *torch.autograd.grad(y, (a["x"], a["gamma"], a["beta"]), a["dy"])]

    return both if case.backward else forward_only


def _calls(case: Calls):
    samples, *positions, channels = case.shape
    groups = case.inputs.groups
    sizes = (samples, channels, math.prod(positions), groups)
    statistics = torch.zeros(samples, groups), torch.ones(samples, groups)

    def forward(x, a):
        return torch.native_group_norm(x, a["gamma"], a["beta"], *sizes, 1e-3)[0]

    def gradient(dy, a):
        return torch.ops.aten.native_group_norm_backward(
            dy, a["x"], *statistics, a["gamma"], *sizes, [True] * 3
        )[0]

    def chain(a):
        x, compute = (a["dy"], gradient) if case.backward else (a["x"], forward)
        with torch.no_grad():
            for _ in range(case.length):
                x = compute(x, a)
        return x

    return chain


def _weights(case: Weights):
    def standardize(w):
        # As timm's StdConv2d does.
        view = w.reshape(1, len(w), -1)
        return torch.nn.functional.batch_norm(
            view, None, None, training=True, momentum=0.0, eps=1e-10
        ).reshape_as(w)

    def forward_only(a):
        with torch.no_grad():
            return [standardize(w) for w in a["w"]]

    def both(a):
        outputs = [standardize(w) for w in a["w"]]
        return outputs, torch.autograd.grad(outputs, a["w"], a["dw"])

    return both if case.backward else forward_only


def to_numpy(case: Norm, outputs: list) -> list:
    outputs = (output.detach().float() for output in outputs)
    return [(t.movedim(1, case.axis) if t.ndim > 1 else t).numpy() for t in outputs]
