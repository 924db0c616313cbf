"""Products against torch's convolution: values, gradients, gradients of gradients; rows end to end against rows by themselves."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ingot.ops.convolution import convolve, convolve_reference

SHAPES = [(kernel, stride, channels) for kernel, stride, channels in itertools.product((1, 2, 3, 7, 10), (1, 2, 5), (1, 3, 40))]


def drawn(kernel: int, stride: int, channels: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(kernel + 10 * stride)
    sizes = ((6 * stride, channels), (4, channels, kernel), (4,))
    x, weight, bias = (torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes)
    return x, weight, bias


@pytest.mark.parametrize(("kernel", "stride", "channels"), SHAPES)
def test_values_and_gradients_are_those_of_the_definition(kernel: int, stride: int, channels: int) -> None:
    x, weight, bias = drawn(kernel, stride, channels)
    found, wanted = convolve(x, weight, stride, bias), convolve_reference(x, weight, stride, bias)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    g = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for mine, other in zip(
        torch.autograd.grad(found, (x, weight, bias), g), torch.autograd.grad(wanted, (x, weight, bias), g), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_gradients_of_gradients() -> None:
    x, weight, bias = drawn(3, 2, 3)
    assert torch.autograd.gradgradcheck(lambda *given: convolve(given[0], given[1], 2, given[2]), (x, weight, bias))
    (alone,) = torch.autograd.grad(convolve(x.detach(), weight, 2).sum(), weight)
    assert alone.shape == weight.shape


def test_rows_end_to_end_do_not_see_each_other() -> None:
    """Where each has room for what its outputs read."""
    x, weight, _ = drawn(3, 2, 40)
    rows = torch.stack([x[:5], x[5:10]]).detach()  # 5 positions each: two outputs
    found = convolve(F.pad(rows, (0, 0, 0, 1)).reshape(-1, 40), weight, 2).view(2, 3, 4)[:, :2]
    torch.testing.assert_close(found, F.conv1d(rows.mT, weight, stride=2).mT)


def test_half_precision_is_rounded_once_a_stretch_of_taps() -> None:
    x, weight, _ = drawn(3, 2, 40, torch.bfloat16)
    wanted = convolve_reference(x.float(), weight.float(), 2)
    assert float((convolve(x, weight, 2).detach().float() - wanted.detach()).abs().max() / wanted.detach().abs().max()) < 2**-7


def test_a_ragged_end_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of the stride 2"):
        convolve(torch.zeros(5, 1), torch.zeros(4, 1, 3), 2)
