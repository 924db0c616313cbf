"""A step does the arithmetic that its page states and little besides: products exactly, passes over the weights within a bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ingot.core.resolve import spec
from ingot.ledger.flops import FlopCount

SHAPES = ((384, 256), (256, 384), (256,))
RANK = 16
# passes over all weights in a step: of operations that are no products, each counts the elements of its largest operand
PASSES: dict[str, float] = {
    "adamw": 1.1,
    "sgd": 3.1,
    "sgd_sai": 3.1,
    "lion": 4.1,
    "schedule_free": 3.1,
    "adafactor": 10.5,
    "adam8bit": 31,
    "adam4bit": 33,
    "galore": 0.14,
    "online_subspace_descent": 1.4,
    "fira": 3.5,
    "apollo": 3.6,
    "muon": 6.2,
}


class Passes(TorchDispatchMode):
    """Counts elements, by operation, of what is neither a view nor a product."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        views = any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)
        name = func._schema.name.removeprefix("aten::")
        if not views and not name.startswith(("empty", "new_", "mm", "addmm", "bmm", "baddbmm", "_unsafe_view")):
            lists = [list(value) for value in args if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor)]
            sizes = [sum(one.numel() for one in value) for value in lists] + [
                value.numel() for value in tree_leaves((args, result)) if isinstance(value, Tensor)
            ]
            self.elements[name] = self.elements.get(name, 0) + max(sizes, default=0)
        return result


def stepped(name: str) -> tuple[Any, list[nn.Parameter]]:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    projected = {"rank": RANK} if name in ("galore", "fira", "apollo", "online_subspace_descent") else {}
    optimizer = spec("optim", name, lr=1e-3, **projected).build(
        params=[{"params": weights, "names": [f"w{index}" for index in range(len(weights))]}]
    )
    for _ in range(2):  # state is created and subspaces are sought
        optimizer.step()
    return optimizer, weights


@pytest.mark.parametrize("name", PASSES)
def test_passes_over_the_weights_are_few(name: str) -> None:
    optimizer, weights = stepped(name)
    with Passes() as passes:
        optimizer.step()
    found = sum(passes.elements.values()) / sum(weight.numel() for weight in weights)
    assert 0.8 * PASSES[name] < found <= PASSES[name], passes.elements


@pytest.mark.parametrize(
    ("name", "product", "square"),
    [("galore", 4, (0, 0)), ("fira", 6, (0, 0)), ("apollo", 2, (0, 0)), ("online_subspace_descent", 6, (2, 6))],
)
def test_products_are_those_of_the_methods_page(name: str, product: int, square: tuple[int, int]) -> None:
    """product rows columns rank + (a longer + b shorter) rank^2 FLOPs for each matrix."""
    optimizer, _ = stepped(name)
    with FlopCount() as count:
        optimizer.step()
    assert count.total == sum(product * 384 * 256 * RANK + (square[0] * 384 + square[1] * 256) * RANK**2 for _ in range(2))
