"""Low rank: the product is the matrix, its rank and its size at the start, and what the initializers make of its factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.axes import axes_of
from ingot.core.errors import UserError
from ingot.core.resolve import spec


@pytest.mark.parametrize("start", ["spectral", "scaled"])
def test_is_the_dense_product_of_its_factors(make: Any, x: Tensor, weight_gradient: Any, score: Any, start: str) -> None:
    layer = make("low_rank", rank=5, start=start)
    whole = layer.left @ layer.right
    torch.testing.assert_close(layer(x), x @ whole.t() + layer.bias)
    assert torch.linalg.matrix_rank(layer.effective()) == 5
    dense = weight_gradient(layer, x)
    score(layer(x)).backward()
    torch.testing.assert_close(layer.left.grad, dense @ layer.right.t())
    torch.testing.assert_close(layer.right.grad, layer.left.t() @ dense)


@pytest.mark.parametrize("start", ["spectral", "scaled"])
@pytest.mark.parametrize("std", [0.02, 0.3])
def test_starts_at_the_size_of_a_dense_matrix(make: Any, drawn: Any, start: str, std: float) -> None:
    found = [
        drawn(make("low_rank", inputs=192, outputs=128, rank=24, start=start), std, seed).effective().detach().square().mean()
        for seed in range(4)
    ]
    assert float(torch.stack(found).mean().sqrt()) == pytest.approx(std, rel=0.05)


def test_the_spectral_start_is_the_best_approximation_scaled(make: Any) -> None:
    layer = make("low_rank", rank=6)
    held = layer.draw_whole(torch.Generator().manual_seed(2), 0.1)
    dense = torch.empty(16, 24).normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    u, s, v = torch.linalg.svd(dense, full_matrices=False)
    best = (u[:, :6] * s[:6]) @ v[:6]
    torch.testing.assert_close(held["left"] @ held["right"], best * (dense.norm() / best.norm()), rtol=1e-4, atol=1e-6)
    gram = held["right"] @ held["right"].t()  # orthogonal rows, balanced by the roots of the singular values
    torch.testing.assert_close(gram, torch.diag(s[:6]), rtol=1e-4, atol=1e-5)


def test_the_rank_is_no_more_than_the_matrix_has(make: Any) -> None:
    assert make("low_rank", rank=100).rank == 16
    assert list(spec("nn.linear", "low_rank", rank=100).target.check({"rank": 100}, {"width": 64}))
    assert not list(spec("nn.linear", "low_rank", rank=64).target.check({"rank": 64}, {"width": 64}))


@pytest.mark.parametrize("role", ["head", "embedding"])
@pytest.mark.parametrize("name", ["low_rank", "sltrain", "relora", "monarch", "ternary", "quantized", "sparse24", "static_sparse"])
def test_heads_and_embeddings_are_refused(make: Any, name: str, role: str) -> None:
    with pytest.raises(UserError, match="dense"):
        make(name, role=role, **({"rank": 4} if name in ("low_rank", "sltrain", "relora") else {}))


def test_width_transfer_scales_what_sees_the_width() -> None:
    """A factor that reads D inputs has the rate and the size of a hidden matrix; one that reads the rank keeps its own."""
    initializer = spec("model.init", "mup", base_width=16).build()
    for width in (16, 64):
        down = spec("nn.linear", "low_rank", rank=4).build(
            inputs=4 * width, outputs=width, bias=False, axes=("width", "hidden"), role="matrix"
        )
        up = spec("nn.linear", "low_rank", rank=4).build(
            inputs=width, outputs=4 * width, bias=False, axes=("hidden", "width"), role="matrix"
        )
        for layer in (down, up):
            rates = {name: initializer.lr_scale(name, axes, tuple(getattr(layer, name).shape)) for name, axes in axes_of(layer).items()}
            assert rates == {"left": 1.0, "right": 16 / width}
