"""The kernel of every row against the definition: values, gradients, and gradients of gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ingot.ops.norm_over_time import norm_over_time, norm_over_time_reference

LENGTHS = torch.tensor([12, 3, 0, 1, -1, 11])  # a kernel finds less than nothing in a row without samples


def drawn(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = ((len(LENGTHS), 12, 5), (5,), (5,))
    x, weight, bias = (torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes)
    return x, weight, bias


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_values_and_gradients_are_those_of_the_definition(dtype: torch.dtype, tolerance: float) -> None:
    inputs = drawn(dtype)
    found, wanted = norm_over_time(inputs[0], LENGTHS, *inputs[1:]), norm_over_time_reference(inputs[0], LENGTHS, *inputs[1:], 1e-5)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    g = torch.randn(found.shape, dtype=dtype, generator=torch.Generator().manual_seed(4))
    for mine, other in zip(torch.autograd.grad(found, inputs, g), torch.autograd.grad(wanted, inputs, g), strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=10 * tolerance)


def test_each_row_is_torchs_group_norm_of_its_real_part() -> None:
    x, weight, bias = drawn(torch.float32)
    found = norm_over_time(x, LENGTHS, weight, bias)
    for row, length in enumerate(LENGTHS.tolist()):
        if length > 1:  # torch refuses a single value
            alone = F.group_norm(x[row : row + 1, :length].mT, 5, weight, bias).mT
            torch.testing.assert_close(found[row : row + 1, :length], alone)
        assert (found[row, length:] == 0).all()


def test_gradients_of_gradients() -> None:
    inputs = drawn(torch.float64)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return norm_over_time(x, LENGTHS, weight, bias)

    assert torch.autograd.gradcheck(norm, inputs)
    assert torch.autograd.gradgradcheck(norm, inputs)


def test_half_precision_keeps_its_type_and_sums_in_fp32() -> None:
    x, weight, bias = drawn(torch.bfloat16)
    found = norm_over_time(x, LENGTHS, weight, bias)
    wanted = norm_over_time_reference(x.float(), LENGTHS, weight.float(), bias.float(), 1e-5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=2**-7, atol=1e-2)
