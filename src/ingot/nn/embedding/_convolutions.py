"""Convolutions over time for stems of sound.   B rows   C channels   T positions (or samples, frames)   D width   K kernel"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.axes import label
from ...ops.convolution import convolve


class Convolution(nn.Module):
    """x (B, inputs, T) -> (B, outputs, T'). weight (outputs, inputs / groups, K), drawn with variance gain^2 / fan-in."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        gain: float = 2**0.5,
        axes: tuple[str, str] = ("channels", "channels_in"),
    ):
        super().__init__()
        self.stride, self.padding, self.groups, self.gain = stride, padding, groups, gain
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.normal_(self.weight, std=gain / (inputs // groups * kernel) ** 0.5)
        label(self, "weight", *axes, "kernel", role="embedding")
        if bias:
            label(self, "bias", axes[0], role="bias")

    def initial(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Kaiming's, as wav2vec 2.0 has it."""
        if name != "weight":
            return None
        return torch.empty(self.weight.shape).normal_(0.0, self.gain / self.weight[0].numel() ** 0.5, generator=generator)

    def out(self, length: Tensor | int) -> Tensor | int:
        """Positions that so many become."""
        return (length + 2 * self.padding - self.weight.shape[2]) // self.stride + 1

    def along(self, x_MC: Tensor) -> Tensor:
        """Of rows that lie end to end, (N stride, inputs) -> (N, outputs); without padding and groups. See ops/convolution.py."""
        return convolve(x_MC, self.weight.to(x_MC.dtype), self.stride, None if self.bias is None else self.bias.to(x_MC.dtype))

    def forward(self, x_BCT: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x_BCT.dtype)
        return F.conv1d(x_BCT, self.weight.to(x_BCT.dtype), bias, self.stride, self.padding, 1, self.groups)


class NormedConvolution(nn.Module):
    """A convolution over neighbors that keeps the length, W_k = gain_k direction_k / |direction_k| for every tap k (weight
    normalization: Salimans & Kingma 2016, arXiv:1602.07868)."""

    def __init__(self, width: int, kernel: int, groups: int):
        super().__init__()
        self.groups, self.std = groups, 2 / (kernel * width) ** 0.5
        self.gain = nn.Parameter(torch.ones(kernel))
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.direction, std=self.std)
        label(self, "gain", "kernel", role="scale")
        label(self, "direction", "width", "group", "kernel", role="position")
        label(self, "bias", "width", role="bias")

    def initial(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Direction as drawn, with the gain that leaves it as it is."""
        if name == "gain":
            return torch.full(self.gain.shape, self.std * self.direction[..., 0].numel() ** 0.5)
        return torch.empty(self.direction.shape).normal_(0.0, self.std, generator=generator) if name == "direction" else None

    def forward(self, x_BDT: Tensor) -> Tensor:
        norm = self.direction.square().sum(dim=(0, 1), keepdim=True).sqrt()
        weight, K = self.gain * self.direction / norm, self.gain.shape[0]
        return F.conv1d(x_BDT, weight.to(x_BDT.dtype), self.bias.to(x_BDT.dtype), 1, K // 2, 1, self.groups)[..., : x_BDT.shape[2]]


class RelativePosition(nn.Module):
    """What convolutions over neighbors say of where a position stands: one with normalized weights (wav2vec 2.0, section 3), or several
    whose outputs are normalized instead (data2vec). x (B, T, D) -> (B, T, D), to be added."""

    def __init__(self, width: int, kernel: int, groups: int, layers: int):
        super().__init__()
        self.normed = layers > 1
        plain = [
            Convolution(width, width, kernel, padding=kernel // 2, groups=groups, gain=1.0, axes=("width", "group")) for _ in range(layers)
        ]
        self.layers = nn.ModuleList(plain if self.normed else [NormedConvolution(width, kernel, groups)])

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BDT, T = x_BTD.mT, x_BTD.shape[1]
        for layer in self.layers:
            y_BDT = layer(y_BDT)[..., :T]
            y_BDT = F.layer_norm(y_BDT.mT, x_BTD.shape[2:]).mT if self.normed else y_BDT
            y_BDT = F.gelu(y_BDT)
        return y_BDT.mT


def real_positions(length_B: Tensor, size: int) -> Tensor:
    """(B, T) int32: 1 for real positions, 0 for padding."""
    return (torch.arange(size, device=length_B.device) < length_B[:, None]).int()
