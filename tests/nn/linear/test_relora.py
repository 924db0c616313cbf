"""ReLoRA: the frozen matrix plus its factors, and a restart that changes no output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.build.check import check
from ingot.core.recipe import Recipe


@pytest.fixture
def layer(make: Any, drawn: Any) -> Any:
    layer = drawn(make("relora", rank=4, alpha=6.0))
    nn.init.normal_(layer.left, generator=torch.Generator().manual_seed(5))
    return layer


def test_is_the_frozen_matrix_and_a_scaled_product(layer: Any, x: Tensor, weight_gradient: Any, score: Any) -> None:
    whole = layer.weight + 1.5 * layer.left @ layer.right
    torch.testing.assert_close(layer(x), x @ whole.t() + layer.bias)
    dense = weight_gradient(layer, x)
    score(layer(x)).backward()
    torch.testing.assert_close(layer.left.grad, 1.5 * dense @ layer.right.t())
    torch.testing.assert_close(layer.right.grad, 1.5 * layer.left.t() @ dense)
    assert layer.weight.grad is None and not layer.weight.requires_grad


def test_starts_as_the_dense_matrix(make: Any, drawn: Any) -> None:
    layer = drawn(make("relora", inputs=256, outputs=192, rank=16), 0.04)
    assert torch.equal(layer.effective(), layer.weight) and not layer.left.any()
    assert float(layer.weight.std()) == pytest.approx(0.04, rel=0.05)
    assert float(layer.right.square().mean()) == pytest.approx(1 / (3 * 256), rel=0.1)


def test_a_restart_changes_no_output(layer: Any, x: Tensor) -> None:
    before, right = layer(x).detach(), layer.right.detach().clone()
    old = layer.weight.detach().clone()
    restarted = layer.restart(torch.Generator().manual_seed(9))
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-10)
    assert {id(weight) for weight in restarted} == {id(layer.left), id(layer.right)}
    assert not layer.left.any() and not torch.equal(layer.right, right)
    assert torch.linalg.matrix_rank(layer.weight - old) == 4


def test_restarts_add_up_to_a_higher_rank(layer: Any) -> None:
    """The paper's claim: a sum of products of rank r reaches a rank above r."""
    old = layer.weight.detach().clone()
    for seed in range(3):
        nn.init.normal_(layer.left, generator=torch.Generator().manual_seed(20 + seed))
        layer.restart(torch.Generator().manual_seed(seed))
    assert torch.linalg.matrix_rank(layer.weight - old) == 12


def test_without_its_hook_it_is_refused(tiny_recipe: Any) -> None:
    recipe: Recipe = tiny_recipe({"model": {"encoder": {"linear": {"name": "relora", "rank": 4}}}})
    assert any("put the hook 'relora'" in problem.message for problem in check(recipe)[1])
    recipe = tiny_recipe(
        {"model": {"encoder": {"linear": {"name": "relora", "rank": 4}}}, "stages": {0: {"hooks": [{"name": "relora", "every": 2}]}}}
    )
    assert not check(recipe)[1]
