"""Layer normalization by its formula."""

from __future__ import annotations

import torch

from ingot.core.resolve import spec


def test_formula_in_double_precision() -> None:
    layer = spec("nn.norm", "layer", eps=1e-3).build(width=8).double()
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    x = torch.randn(5, 8, dtype=torch.float64)
    centered = x - x.mean(-1, keepdim=True)
    expected = layer.weight * centered / (centered.square().mean(-1, keepdim=True) + 1e-3).sqrt() + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-13, atol=1e-13)


def test_knobs_decide_what_is_learned() -> None:
    assert [name for name, _ in spec("nn.norm", "layer", bias=False).build(width=8).named_parameters()] == ["weight"]
    assert spec("nn.norm", "layer").build(width=8)(torch.randn(2, 8).bfloat16()).dtype == torch.bfloat16
