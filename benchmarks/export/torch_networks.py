"""The same networks in PyTorch, channels first."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from .contenders import NETWORKS, UNET_WIDTHS


def build(network: str) -> nn.Module:
    """Returns a network with random weights, for inference."""
    torch.manual_seed(0)
    if network == "bit":
        return BiT().train(False)
    return UNet(NETWORKS["unet"].inputs["images"][-1]).train(False)


def zeros(network: str, batch: int) -> tuple[torch.Tensor, ...]:
    """Returns the inputs of a network, of zeros."""
    return tuple(
        torch.zeros(batch, *shape[-1:], *shape[:-1]) for shape in NETWORKS[network].inputs.values()
    )


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-5)


def _norm_relu(width: int) -> nn.Sequential:
    return nn.Sequential(_norm(width), nn.ReLU())


class StandardizedConv2d(nn.Conv2d):
    """Standardizes its kernel at every call, as `StdConv2d` of timm does."""

    def __init__(self, inputs: int, width: int, size: int, strides: int = 1):
        super().__init__(inputs, width, size, strides, padding=size // 2, bias=False)

    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        rows = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-8)
        kernel = rows.reshape_as(self.weight)
        return F.conv2d(x, kernel, None, self.stride, self.padding)


class Bottleneck(nn.Module):
    """A unit of a BiT model."""

    def __init__(self, inputs: int, width: int, strides: int):
        super().__init__()
        self.first_norm = _norm_relu(inputs)
        has_projection = inputs != 4 * width
        self.project = StandardizedConv2d(inputs, 4 * width, 1, strides) if has_projection else None
        self.rest = nn.Sequential(
            StandardizedConv2d(inputs, width, 1),
            _norm_relu(width),
            StandardizedConv2d(width, width, 3, strides),
            _norm_relu(width),
            StandardizedConv2d(width, 4 * width, 1),
        )

    def forward(self, x):
        normalized = self.first_norm(x)
        shortcut = x if self.project is None else self.project(normalized)
        return self.rest(normalized) + shortcut


class BiT(nn.Sequential):
    """A BiT-R50x1: timm's `resnetv2_50x1_bit`."""

    def __init__(self, classes: int = 1000):
        layers, inputs = [], 64
        stages = zip((64, 128, 256, 512), (3, 4, 6, 3), (1, 2, 2, 2), strict=True)
        for width, units, strides in stages:
            for unit in range(units):
                layers.append(Bottleneck(inputs, width, 1 if unit else strides))
                inputs = 4 * width
        super().__init__(
            StandardizedConv2d(3, 64, 7, 2),
            nn.ConstantPad2d(1, 0.0),
            nn.MaxPool2d(3, 2),
            *layers,
            _norm_relu(inputs),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(inputs, classes),
        )


class Block(nn.Module):
    """A residual block, scaled and shifted by an embedding."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.shortcut = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)
        self.first_norm, self.first = _norm(inputs), nn.Conv2d(inputs, width, 3, padding=1)
        self.second_norm, self.second = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.scale_and_shift = nn.Linear(4 * UNET_WIDTHS[0], 2 * width)

    def forward(self, x, embedding):
        y = self.first(F.silu(self.first_norm(x)))
        # 1 is added before the split: OpenVINO 2026.4 crashes if a GroupNormalization is multiplied
        # by the sum of a tensor and a constant. It is the same network with another bias.
        scale, shift = (1 + self.scale_and_shift(embedding))[:, :, None, None].chunk(2, dim=1)
        y = self.second(F.silu(self.second_norm(y) * scale + shift))
        return y + self.shortcut(x)


class UNet(nn.Module):
    """See `keras_networks`."""

    def __init__(self, channels: int):
        super().__init__()
        first, last = UNET_WIDTHS[0], UNET_WIDTHS[-1]
        frequencies = torch.logspace(0, 2, first // 2)
        self.register_buffer("frequencies", frequencies)
        self.embed = nn.Sequential(
            nn.Linear(first, 4 * first), nn.SiLU(), nn.Linear(4 * first, 4 * first), nn.SiLU()
        )
        self.enter = nn.Conv2d(channels, first, 3, padding=1)
        pairs = list(zip(UNET_WIDTHS, UNET_WIDTHS[1:], strict=False))
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 3, 2, padding=1) for a, b in pairs)
        self.down = nn.ModuleList(Block(width, width) for width in UNET_WIDTHS)
        self.middle = Block(last, last)
        self.enlarge = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in reversed(pairs))
        self.up = nn.ModuleList(Block(2 * a, a) for a, _ in reversed(pairs))
        self.norm, self.leave = _norm(first), nn.Conv2d(first, channels, 3, padding=1)

    def forward(self, images, time):
        angles = time * self.frequencies
        embedding = self.embed(torch.cat([angles.sin(), angles.cos()], dim=-1))
        x, skips = self.enter(images), []
        for level, block in enumerate(self.down):
            x = block(self.halve[level - 1](x) if level else x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        for enlarge, block, skip in zip(self.enlarge, self.up, skips[-2::-1], strict=True):
            x = enlarge(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = block(torch.cat([x, skip], dim=1), embedding)
        return self.leave(F.silu(self.norm(x)))
