"""SPDF's sparse stage: a fixed mask of an exact size, invisible weights that never learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.resolve import spec
from ingot.model.init._draw import fill


def test_is_the_masked_product(make: Any, drawn: Any, x: Tensor) -> None:
    layer = drawn(make("static_sparse", sparsity=0.75))
    assert int(layer.mask.sum()) == 16 * 24 // 4
    with torch.no_grad():
        layer.weight.add_(1.0)  # what lies under the mask does not matter
    torch.testing.assert_close(layer(x), x @ (layer.weight * layer.mask).t() + layer.bias)


def test_what_is_masked_has_no_gradient(make: Any, drawn: Any, x: Tensor, weight_gradient: Any, score: Any) -> None:
    layer = drawn(make("static_sparse"))
    dense = weight_gradient(layer, x)
    score(layer(x)).backward()
    torch.testing.assert_close(layer.weight.grad, dense * layer.mask)
    assert not layer.weight.grad[layer.mask == 0].any() and layer.weight.grad[layer.mask == 1].all()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_function_stays_sparse_under_any_optimizer(make: Any, drawn: Any, x: Tensor, score: Any, name: str) -> None:
    layer = drawn(make("static_sparse"))
    mask = layer.mask.clone()
    optimizer = spec("optim", name, lr=0.1).build(params=list(layer.parameters()))
    before = layer.effective().detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        score(layer(x)).backward()
        optimizer.step()
    assert torch.equal(layer.mask, mask) and not layer.effective()[mask == 0].any()
    assert (layer.effective() != before)[mask == 1].all()


def test_each_layer_has_its_own_mask_from_the_seed(make: Any) -> None:
    model = nn.ModuleDict({name: make("static_sparse") for name in ("one", "two")})
    fill(model, 7, lambda name, axes, shape: 0.1)
    masks = [layer.mask.clone() for layer in model.values()]
    assert not torch.equal(*masks)
    fill(model, 7, lambda name, axes, shape: 0.1)
    assert all(torch.equal(mask, layer.mask) for mask, layer in zip(masks, model.values()))


def test_starts_at_the_size_of_a_dense_matrix(make: Any, drawn: Any) -> None:
    layer = drawn(make("static_sparse", inputs=256, outputs=192, sparsity=0.9), 0.04)
    assert float(layer.effective().detach().square().mean().sqrt()) == pytest.approx(0.04, rel=0.05)
