"""Rotary and activation kernels against their definitions."""

from __future__ import annotations

import torch

from ingot.ops.activations import squared_relu, squared_relu_reference
from ingot.ops.rotary import rotate, rotate_reference


def angles(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.rand(2, 1, 5, 4, dtype=torch.float64) * 6
    return angle.cos().to(dtype), angle.sin().to(dtype)


def test_rotation_and_its_gradient() -> None:
    torch.manual_seed(0)
    x, g, (cos, sin) = (
        torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 3, 5, 8, dtype=torch.float64),
        angles(),
    )
    fast, plain = rotate(x, cos, sin), rotate_reference(x, cos, sin)
    assert torch.allclose(fast, plain, atol=1e-14)
    assert torch.allclose(torch.autograd.grad(fast, x, g)[0], torch.autograd.grad(plain, x, g)[0], atol=1e-14)
    assert torch.allclose(fast.norm(dim=-1), x.norm(dim=-1))
    assert torch.allclose(rotate(fast, cos, -sin), x, atol=1e-14)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, cos, sin).square(), (x,))


def test_rotation_keeps_bf16() -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.bfloat16)
    assert rotate(x, *angles(torch.bfloat16)).dtype == torch.bfloat16


def test_squared_relu_and_both_derivatives() -> None:
    torch.manual_seed(0)
    x, g = torch.randn(50, dtype=torch.float64, requires_grad=True), torch.randn(50, dtype=torch.float64)
    fast, plain = squared_relu(x), squared_relu_reference(x)
    assert torch.equal(fast, plain)
    assert torch.equal(torch.autograd.grad(fast, x, g)[0], torch.autograd.grad(plain, x, g)[0])
    assert torch.autograd.gradcheck(squared_relu, (x,)) and torch.autograd.gradgradcheck(squared_relu, (x,))


def test_compiled_equals_eager() -> None:
    torch._dynamo.reset()
    x, (cos, sin) = torch.randn(2, 3, 5, 8), angles(torch.float32)

    def f(x: torch.Tensor) -> torch.Tensor:
        return squared_relu(rotate(x, cos, sin))

    assert torch.allclose(torch.compile(f, fullgraph=True, backend="aot_eager")(x), f(x), atol=1e-6)
