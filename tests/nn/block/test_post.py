"""Where the norms stand, by the formula; a mixer and a feed-forward that only scale make it visible."""

from __future__ import annotations

import torch
from torch import nn

from ingot.core.resolve import spec
from ingot.nn.context import Context


class Times(nn.Module):
    """Multiplies, so that each place in the formula can be told."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        return x * self.factor


def norm(x: torch.Tensor, gain: float) -> torch.Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def test_formula() -> None:
    block = spec("nn.block", "post").build(width=8, mixer=Times(3.0), feedforward=Times(5.0), norm=spec("nn.norm", "rms")).double()
    with torch.no_grad():
        block.mixer_norm.weight.fill_(1.5)
        block.feedforward_norm.weight.fill_(0.5)
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    middle = norm(x + 3 * x, 1.5)
    torch.testing.assert_close(block(x, Context(torch.zeros(2, 4))), norm(middle + 5 * middle, 0.5), rtol=1e-12, atol=1e-12)
    assert type(block).normalizes_output
