"""BitNet b1.58: three values and one scale, 8-bit inputs, and gradients that pass both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F


def test_the_matrix_is_minus_one_zero_or_one_times_its_scale(make: Any, drawn: Any) -> None:
    layer = drawn(make("ternary", inputs=48, outputs=32))
    scale = layer.weight.abs().mean()
    codes = layer.effective() / scale
    assert set(codes.unique().tolist()) == {-1.0, 0.0, 1.0}
    wanted = (layer.weight / scale).round().clamp(-1, 1)
    assert torch.equal(codes.round(), wanted) and 0.25 < float((wanted == 0).double().mean()) < 0.4


def test_the_product_is_of_integers(make: Any, x: Tensor) -> None:
    layer = make("ternary")
    normed = F.rms_norm(x, (24,), eps=1e-6)
    step = normed.abs().amax(-1, keepdim=True) / 127
    codes = (normed / step).round()
    assert codes.abs().max() == 127 and torch.equal(codes, codes.round())
    torch.testing.assert_close(layer(x), (codes * step) @ layer.effective().t() + layer.bias, rtol=1e-9, atol=1e-12)


def test_gradients_pass_straight_through(make: Any, x: Tensor, score: Any) -> None:
    """As for y = W x' with the rounded weights and inputs in the other factor's gradient."""
    layer = make("ternary", norm=None)
    score(layer(x)).backward()
    step = x.detach().abs().amax(-1, keepdim=True) / 127
    rounded = ((x.detach() / step).round() * step).requires_grad_()
    whole = layer.effective().detach().requires_grad_()
    score(rounded @ whole.t() + layer.bias.detach()).backward()
    torch.testing.assert_close(layer.weight.grad, whole.grad)
    torch.testing.assert_close(x.grad, rounded.grad)


def test_starts_at_the_size_of_a_dense_matrix(make: Any, drawn: Any) -> None:
    layer = drawn(make("ternary", inputs=256, outputs=192), 0.04)
    assert float(layer.effective().detach().square().mean().sqrt()) == pytest.approx(0.04, rel=1e-4)


def test_inputs_may_stay_as_they_are(make: Any, x: Tensor) -> None:
    layer = make("ternary", norm=None, activations=False)
    torch.testing.assert_close(layer(x), x @ layer.effective().t() + layer.bias)


def test_bf16_holds_the_codes_exactly(make: Any) -> None:
    layer = make("ternary", norm=None, bias=False).float()
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(2)).bfloat16()
    exact = layer.double()(x.double())
    assert (
        float((layer.float()(x).double() - exact).detach().abs().max() / exact.detach().abs().max()) < 5e-3
    )  # the product and the scaled output are rounded once each
