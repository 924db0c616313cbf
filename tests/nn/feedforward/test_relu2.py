"""The formula, the size when none is named, and the axes."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ingot.core.axes import axes_of
from ingot.core.resolve import spec


def test_formula() -> None:
    layer = spec("nn.feedforward", "relu2", hidden=12).build(width=8, linear=spec("nn.linear", "dense")).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.relu(x @ layer.up.weight.T) ** 2 @ layer.down.weight.T, rtol=1e-12, atol=1e-14)


def test_default_size_and_axes() -> None:
    layer = spec("nn.feedforward", "relu2").build(width=8, linear=spec("nn.linear", "dense"))
    assert layer.up.weight.shape == (32, 8)
    assert axes_of(layer)["up.weight"] == (("hidden", "width"), "matrix")
