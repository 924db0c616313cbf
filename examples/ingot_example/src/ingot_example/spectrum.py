r"""A series as the strengths of its frequencies, one position per channel.

x_c = W log(1 + |rfft(series_c - mean_c)|) + b        series (B, L, C) -> x (B, C, D)        W: (D, L / 2 + 1)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ingot.core.parts import Spec, part
from ingot.core.seams import Field
from ingot.nn.context import Context


@part
class Spectrum(nn.Module):
    """centered: whether a channel's mean is taken away first."""

    reads = ("series",)

    def __init__(self, width: int, linear: Spec, fields: Mapping[str, Field], *, centered: bool = True):
        super().__init__()
        self.length, self.longest = fields["series"].shape
        self.centered = centered
        self.project = linear.build(inputs=self.length // 2 + 1, outputs=width, bias=True, axes=("width", "frequencies"), role="embedding")

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """(channels,)."""
        return (self.longest,)

    def forward(self, batch: dict[str, Tensor], context: Context) -> Tensor:
        series = batch["series"] - batch["series"].mean(dim=1, keepdim=True) if self.centered else batch["series"]
        strength = torch.fft.rfft(series.transpose(1, 2), n=self.length).abs().log1p()
        return context.hide(self.project(strength.to(self.project.weight.dtype)))
