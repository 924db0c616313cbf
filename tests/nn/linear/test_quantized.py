"""Simulated low-bit products: the formats' own numbers, scales by row, and gradients that pass the rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.nn.linear.quantized import MOST, round_to

FORMATS = ["e4m3", "e5m2", "int8"]


def numbers(exponent_bits: int, mantissa_bits: int, most: float) -> Tensor:
    """Every non-negative number of a small float format, from its definition."""
    bias = 2 ** (exponent_bits - 1) - 1
    steps = torch.arange(2**mantissa_bits, dtype=torch.float64) / 2**mantissa_bits
    normal = torch.cat([(1 + steps) * 2.0 ** (e - bias) for e in range(1, 2**exponent_bits)])
    found = torch.cat([steps * 2.0 ** (1 - bias), normal])
    return found[found <= most]


@pytest.mark.parametrize(
    ("name", "grid"), [("e4m3", numbers(4, 3, 448)), ("e5m2", numbers(5, 2, 57344)), ("int8", torch.arange(128.0, dtype=torch.float64))]
)
def test_rounds_to_the_nearest_number_of_the_format(name: str, grid: Tensor) -> None:
    values = torch.cat([torch.linspace(0, MOST[name], 1001, dtype=torch.float64), torch.logspace(-6, 2, 500, dtype=torch.float64)])
    nearest = (values[:, None] - grid).abs().amin(1)
    found = round_to(values, name)
    torch.testing.assert_close((found - values).abs(), nearest, rtol=1e-12, atol=0)
    assert torch.equal(round_to(-values, name), -found)
    assert round_to(torch.tensor([1e9]), name).item() == MOST[name] == grid.max()


@pytest.mark.parametrize("scales", ["row", "tensor"])
@pytest.mark.parametrize("name", FORMATS)
def test_is_the_product_of_rounded_factors(make: Any, x: Tensor, name: str, scales: str) -> None:
    layer = make("quantized", format=name, scales=scales)
    size = layer.weight.detach().abs()
    scale = (size.amax(1, keepdim=True) if scales == "row" else size.max()) / MOST[name]
    whole = round_to(layer.weight / scale, name) * scale
    torch.testing.assert_close(layer.effective(), whole)
    step = x.detach().abs().amax(-1, keepdim=True) / MOST[name]
    torch.testing.assert_close(layer(x), (round_to(x / step, name) * step) @ whole.t() + layer.bias)
    assert float((whole - layer.weight).detach().norm() / layer.weight.detach().norm()) < {"e4m3": 0.04, "e5m2": 0.08, "int8": 0.03}[name]


def test_a_scale_for_each_row_is_finer(make: Any) -> None:
    errors = {}
    for scales in ("row", "tensor"):
        layer = make("quantized", format="int8", scales=scales)
        with torch.no_grad():
            layer.weight.mul_(torch.logspace(0, -3, 16, dtype=torch.float64)[:, None])
        errors[scales] = float(((layer.effective() - layer.weight).norm(dim=1) / layer.weight.norm(dim=1)).max())
    assert errors["row"] < 0.03 < 0.5 < errors["tensor"]


@pytest.mark.parametrize("name", FORMATS)
def test_gradients_pass_straight_through(make: Any, x: Tensor, score: Any, name: str) -> None:
    layer = make("quantized", format=name)
    score(layer(x)).backward()
    step = x.detach().abs().amax(-1, keepdim=True) / MOST[name]
    rounded = (round_to(x / step, name) * step).detach().requires_grad_()
    whole = layer.effective().detach().requires_grad_()
    score(rounded @ whole.t() + layer.bias.detach()).backward()
    torch.testing.assert_close(layer.weight.grad, whole.grad)
    torch.testing.assert_close(x.grad, rounded.grad)


def test_gradients_are_rounded_where_asked(make: Any, x: Tensor) -> None:
    layer = make("quantized", gradients="e5m2")
    g = torch.randn(5, 7, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    layer(x).backward(g)
    step = g.abs().amax(-1, keepdim=True) / MOST["e5m2"]
    rounded = round_to(g / step, "e5m2") * step
    torch.testing.assert_close(x.grad, rounded @ layer.effective())
    torch.testing.assert_close(layer.bias.grad, g.sum((0, 1)))


def test_a_row_of_zeros_gives_no_nan(make: Any) -> None:
    layer = make("quantized", gradients="e4m3")
    with torch.no_grad():
        layer.weight[0] = 0
    x = torch.zeros(2, 24, dtype=torch.float64, requires_grad=True)
    (layer(x) * 0).sum().backward()
    assert layer.weight.grad.isfinite().all() and x.grad.isfinite().all()
