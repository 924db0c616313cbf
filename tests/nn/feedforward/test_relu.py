"""The rectified feed-forward, from its equation."""

from __future__ import annotations

import torch

from ingot.core.resolve import spec


def test_is_its_equation() -> None:
    layer = spec("nn.feedforward", "relu", hidden=6, bias=True).build(width=4, linear=spec("nn.linear", "dense"))
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, 4)
    expected = (x @ layer.up.weight.T + layer.up.bias).clamp(min=0) @ layer.down.weight.T + layer.down.bias
    torch.testing.assert_close(layer(x), expected)
    assert (expected != x @ layer.up.weight.T @ layer.down.weight.T).any()
