"""The gated feed-forward, from its equation."""

from __future__ import annotations

import math

import torch

from ingot.core.resolve import spec


def test_is_its_equation() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    for kind in ("tanh", "none"):
        layer = spec("nn.feedforward", "geglu", hidden=6, approximate=kind).build(width=4, linear=spec("nn.linear", "dense"))
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter)
        z = x @ layer.gate.weight.T
        curve = (
            (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
            if kind == "tanh"
            else (1 + torch.erf(z / math.sqrt(2))) / 2
        )
        torch.testing.assert_close(layer(x), (z * curve * (x @ layer.up.weight.T)) @ layer.down.weight.T)
