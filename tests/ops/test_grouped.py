"""Grouped products against the definition, their derivatives, and what the meter counts of them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ingot.ops.flops import register
from ingot.ops.grouped import collect, ends_of, group_of_rows, grouped_matmul, grouped_matmul_reference, grouped_outer, spread

ENDS = torch.tensor([3, 3, 10, 17], dtype=torch.int32)  # an empty group, and three rows behind the last


def operands(dtype: torch.dtype, rows: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in ((rows, 5), (4, 6, 5)))
    return x, weight


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_equals_the_loop_over_rows_with_its_gradients(dtype: torch.dtype, tolerance: float) -> None:
    x, weight = operands(dtype)
    found, expected = grouped_matmul(x, weight, ENDS), grouped_matmul_reference(x, weight, ENDS)
    pull = torch.linspace(-1, 1, found.numel()).view(found.shape).to(dtype)
    pairs = [(found, expected), *zip(torch.autograd.grad((found * pull).sum(), (x, weight)), torch.autograd.grad((expected * pull).sum(), (x, weight)))]
    for one, other in pairs:
        assert float((one - other).detach().double().norm() / other.detach().double().norm()) < tolerance
    assert not found[17:].any() and not pairs[2][0][1].any(), "rows behind the last group, and the matrix of an empty one"


def test_derivatives_of_both_orders() -> None:
    x, weight = operands(torch.float64)
    assert torch.autograd.gradgradcheck(lambda a, b: grouped_matmul(a, b, ENDS), (x, weight))
    g = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: grouped_outer(a, b, ENDS), (g, x))


def test_rows_outside_every_group_are_never_read() -> None:
    x, weight = operands(torch.float32)
    with torch.no_grad():
        x[17:] = torch.nan
        assert grouped_matmul(x, weight, ENDS).isfinite().all() and grouped_outer(x, x, ENDS).isfinite().all()


def test_spread_and_collect_undo_and_derive_each_other() -> None:
    experts = torch.tensor([[2, 0], [1, 3], [0, 2], [3, 1]])
    sorted_M, order = experts.flatten().sort(stable=True)
    inverse = order.argsort()
    assert ends_of(sorted_M, 3).tolist() == [2, 4, 6] and group_of_rows(8, ends_of(sorted_M, 3)).tolist() == sorted_M.tolist()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    rows = spread(x, order, inverse)
    assert torch.equal(rows, x[order // 2])
    torch.testing.assert_close(collect(rows, order, inverse, 2), 2 * x)
    assert torch.autograd.gradgradcheck(lambda a: spread(a, order, inverse), (x,))
    y = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: collect(a, order, inverse, 2), (y,))


def test_the_meter_counts_rows_in_groups_each_way() -> None:
    register()
    x, weight = operands(torch.float32)
    with FlopCounterMode(display=False) as counter:
        grouped_matmul(x, weight, ENDS).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 17 * 5 * 6
    with FlopCounterMode(display=False) as counter:
        grouped_matmul(x.to("meta"), weight.to("meta"), ENDS.to("meta"))
    assert counter.get_total_flops() == 2 * 20 * 5 * 6, "without contents every row counts"
