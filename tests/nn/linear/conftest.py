"""What the tests of linears share: one layer of any kind, and the gradients of the dense product it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.resolve import spec
from ingot.model.init._draw import fill

INPUTS, OUTPUTS = 24, 16


@pytest.fixture
def make() -> Callable[..., Any]:
    """make(name, inputs=24, outputs=16, bias=True, axes=..., role=..., **knobs) -> a layer in fp64."""

    def build(
        name: str,
        *,
        inputs: int = INPUTS,
        outputs: int = OUTPUTS,
        bias: bool = True,
        axes: tuple[str, str] = ("hidden", "width"),
        role: str = "matrix",
        **knobs: Any,
    ) -> Any:
        layer = spec("nn.linear", name, **knobs).build(inputs=inputs, outputs=outputs, bias=bias, axes=axes, role=role).double()
        if bias:
            nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(3))
        return layer

    return build


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 7, INPUTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)


@pytest.fixture
def drawn() -> Callable[..., Any]:
    """drawn(layer, std, seed=0): the layer after an initializer that gives a dense matrix in its place this standard deviation."""

    def apply(layer: Any, std: float = 0.05, seed: int = 0) -> Any:
        fill(nn.ModuleDict({"layer": layer}), seed, lambda name, axes, shape: std)
        return layer

    return apply


@pytest.fixture
def weight_gradient() -> Callable[..., Tensor]:
    """weight_gradient(layer, x) -> dW of a fixed function of y = W x + b, W the layer's effective matrix, by autograd."""

    def compute(layer: Any, x: Tensor) -> Tensor:
        whole = layer.effective().detach().requires_grad_()
        y = x.detach() @ whole.t() + layer.bias.detach()
        score(y).backward()
        assert whole.grad is not None
        return whole.grad

    return compute


def score(y: Tensor) -> Tensor:
    """A fixed function that is not linear in y."""
    return (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum() + (y**2).sum() / 7


@pytest.fixture(name="score")
def score_fixture() -> Callable[[Tensor], Tensor]:
    return score
