"""SLTrain: W = s B A + S, its gradients without W, the fixed places, and what is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.model.init._draw import fill


@pytest.fixture
def layer(make: Any, drawn: Any) -> Any:
    return drawn(make("sltrain", rank=5, density=0.1, alpha=10.0))


def test_is_sparse_plus_low_rank(layer: Any, x: Tensor) -> None:
    sparse = torch.zeros(16 * 24, dtype=torch.float64)
    sparse[layer.places.long()] = layer.values.detach()
    whole = 2.0 * layer.left @ layer.right + sparse.view(16, 24)
    torch.testing.assert_close(layer.effective(), whole)
    torch.testing.assert_close(layer(x), x @ whole.t() + layer.bias)


def test_gradients_are_images_of_the_dense_one(layer: Any, x: Tensor, weight_gradient: Any, score: Any) -> None:
    dense = weight_gradient(layer, x)
    score(layer(x)).backward()
    torch.testing.assert_close(layer.left.grad, 2.0 * dense @ layer.right.t())
    torch.testing.assert_close(layer.right.grad, 2.0 * layer.left.t() @ dense)
    torch.testing.assert_close(layer.values.grad, dense.flatten()[layer.places.long()])
    other = x.detach().clone().requires_grad_()
    score(other @ layer.effective().detach().t() + layer.bias.detach()).backward()
    torch.testing.assert_close(x.grad, other.grad)


def test_places_are_distinct_fixed_and_each_layers_own(make: Any) -> None:
    model = nn.ModuleDict({name: make("sltrain", rank=4, density=0.1) for name in ("left", "right")})
    fill(model, 7, lambda name, axes, shape: 0.1)
    places = {name: layer.places.clone() for name, layer in model.items()}
    assert all(len(found) == 38 == len(set(found.tolist())) and found.max() < 16 * 24 for found in places.values())
    assert not torch.equal(places["left"], places["right"])
    fill(model, 7, lambda name, axes, shape: 0.3)
    assert all(torch.equal(places[name], layer.places) for name, layer in model.items())
    fill(model, 8, lambda name, axes, shape: 0.1)
    assert not torch.equal(places["left"], model["left"].places)
    assert "left.places" in model.state_dict()


def test_starts_at_the_size_of_a_dense_matrix(make: Any, drawn: Any) -> None:
    layer = drawn(make("sltrain", inputs=256, outputs=192, rank=32), 0.04)
    assert float(layer.effective().detach().square().mean().sqrt()) == pytest.approx(0.04, rel=0.05)


def test_the_dense_matrix_is_not_kept_for_the_backward_pass(make: Any) -> None:
    layer, kept = make("sltrain", inputs=64, outputs=48, rank=4, density=0.05), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        layer(torch.randn(3, 64, dtype=torch.float64, requires_grad=True))
    assert kept and max(kept) < 64 * 48
