"""The eager kernels against the definitions, values and gradients, in every dtype."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ingot.ops.norms import layer_norm, layer_norm_reference, rms_norm, rms_norm_reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}


def gradients(
    f: Callable[..., torch.Tensor], x: torch.Tensor, parameters: list[torch.Tensor | None], g: torch.Tensor
) -> list[torch.Tensor]:
    leaves = [t.detach().clone().requires_grad_() if t is not None else None for t in (x, *parameters)]
    y = f(*leaves)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], g)]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", ["rms", "layer"])
def test_matches_the_definition(dtype: torch.dtype, weighted: bool, name: str) -> None:
    torch.manual_seed(0)
    fast, plain = (rms_norm, rms_norm_reference) if name == "rms" else (layer_norm, layer_norm_reference)
    x, g = (3 * torch.randn(5, 7, 48) + 1).to(dtype), torch.randn(5, 7, 48).to(dtype)
    master = torch.float64 if dtype == torch.float64 else torch.float32
    parameters: list[torch.Tensor | None] = [torch.rand(48, dtype=master) + 0.5 if weighted else None]
    if name == "layer":
        parameters.append(torch.randn(48, dtype=master))
    found, truth = (
        gradients(fast, x, parameters, g),
        gradients(plain, x.double(), [p if p is None else p.double() for p in parameters], g.double()),
    )
    assert found[0].dtype == dtype and all(f.dtype == p.dtype for f, p in zip(found[2:], [p for p in parameters if p is not None]))
    for f, t in zip(found, truth):
        assert (f.double() - t).abs().max() <= TOLERANCE[dtype] * t.abs().max()


def test_rms_norm_differentiates_twice() -> None:
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    w = torch.rand(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rms_norm, (x, w))
    assert torch.autograd.gradgradcheck(rms_norm, (x, w))


def test_zero_vectors_and_frozen_weights_are_harmless() -> None:
    x = torch.zeros(2, 4, 16, requires_grad=True)
    rms_norm(x, torch.ones(16)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert rms_norm(torch.randn(0, 16)).shape == (0, 16)


def test_gradient_of_strided_input() -> None:
    x = torch.randn(2, 3, 4, 8).transpose(1, 2)
    assert torch.allclose(rms_norm(x), rms_norm_reference(x), atol=1e-6)


def test_compiled_equals_eager() -> None:
    torch._dynamo.reset()
    x, w = torch.randn(4, 32, requires_grad=True), torch.rand(32, requires_grad=True)
    y = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")(x, w)
    assert torch.allclose(y, rms_norm(x, w), atol=1e-6)
