"""RMS normalization by its formula."""

from __future__ import annotations

import torch

from ingot.core.resolve import spec


def test_formula_in_double_precision() -> None:
    layer = spec("nn.norm", "rms", eps=1e-3).build(width=8).double()
    with torch.no_grad():
        layer.weight.normal_()
    x = torch.randn(5, 8, dtype=torch.float64)
    expected = layer.weight * x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(layer(x), expected, rtol=1e-13, atol=1e-13)


def test_bf16_is_normalized_in_fp32() -> None:
    layer, x = spec("nn.norm", "rms").build(width=64), 1e3 * torch.randn(5, 64)
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, layer(x.bfloat16().float()).bfloat16())


def test_without_gain_there_is_nothing_to_learn() -> None:
    layer = spec("nn.norm", "rms", gain=False).build(width=8)
    assert not list(layer.parameters())
    torch.testing.assert_close(layer(torch.randn(3, 8)).square().mean(-1), torch.ones(3), rtol=1e-4, atol=1e-4)
