"""The formula, the size when none is named, and the axes."""

from __future__ import annotations

import torch

from ingot.core.axes import axes_of
from ingot.core.resolve import spec


def test_formula() -> None:
    layer = spec("nn.feedforward", "swiglu", hidden=12).build(width=8, linear=spec("nn.linear", "dense")).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    gate = x @ layer.gate.weight.T
    torch.testing.assert_close(
        layer(x), (gate * torch.sigmoid(gate) * (x @ layer.up.weight.T)) @ layer.down.weight.T, rtol=1e-12, atol=1e-14
    )


def test_default_size_costs_what_a_fourfold_one_costs() -> None:
    for width in (64, 384, 768):
        layer = spec("nn.feedforward", "swiglu").build(width=width, linear=spec("nn.linear", "dense"))
        hidden = layer.up.weight.shape[0]
        assert hidden % 64 == 0 and 0 <= hidden - 8 * width / 3 < 64
    assert set(axes_of(layer)) == {"gate.weight", "up.weight", "down.weight"}
