"""The formula, the size when none is named, and the axes."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ingot.core.axes import axes_of
from ingot.core.resolve import spec


def test_formula() -> None:
    for approximate in ("none", "tanh"):
        layer = (
            spec("nn.feedforward", "gelu", hidden=12, bias=True, approximate=approximate)
            .build(width=8, linear=spec("nn.linear", "dense"))
            .double()
        )
        x = torch.randn(3, 8, dtype=torch.float64)
        hidden = x @ layer.up.weight.T + layer.up.bias
        if approximate == "none":
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        torch.testing.assert_close(layer(x), hidden @ layer.down.weight.T + layer.down.bias, rtol=1e-12, atol=1e-14)


def test_default_size_and_axes() -> None:
    layer = spec("nn.feedforward", "gelu").build(width=8, linear=spec("nn.linear", "dense"))
    assert layer.up.weight.shape == (32, 8)
    assert axes_of(layer)["down.weight"] == (("width", "hidden"), "matrix")
