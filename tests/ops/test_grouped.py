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
    x, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in ((rows, 5), (4, 6, 5))
    )
    return x, weight


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_equals_the_loop_over_rows_with_its_gradients(dtype: torch.dtype, tolerance: float) -> None:
    x, weight = operands(dtype)
    found, expected = grouped_matmul(x, weight, ENDS), grouped_matmul_reference(x, weight, ENDS)
    pull = torch.linspace(-1, 1, found.numel()).view(found.shape).to(dtype)
    pairs = [
        (found, expected),
        *zip(torch.autograd.grad((found * pull).sum(), (x, weight)), torch.autograd.grad((expected * pull).sum(), (x, weight))),
    ]
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


@pytest.mark.parametrize("ends", [[130, 130, 367, 600], [7, 19, 300, 633], [0, 640, 640, 640], [3, 5, 5, 9]])
def test_masters_in_full_precision_are_cast_group_by_group(ends: list[int]) -> None:
    """Sizes that are rounded up inside: nothing of a neighbor or of what lies behind may enter, in product, gradients, or memory."""
    generator = torch.Generator().manual_seed(0)
    ends_E = torch.tensor(ends, dtype=torch.int32)
    x = torch.randn(640, 24, generator=generator).bfloat16()
    x[ends[-1] :] = torch.nan
    x.requires_grad_()
    weight = torch.randn(4, 40, 24, generator=generator, requires_grad=True)
    pull = torch.randn(640, 40, generator=generator).bfloat16()
    y = grouped_matmul(x, weight, ends_E)
    x_gradient, w_gradient = torch.autograd.grad(y, (x, weight), pull)
    assert y.dtype == x_gradient.dtype == torch.bfloat16 and w_gradient.dtype == torch.float32
    for group, (start, end) in enumerate(zip([0, *ends], ends)):
        rows, matrix, g = x[start:end].double(), weight[group].bfloat16().double(), pull[start:end].double()
        for one, other in ((y[start:end], rows @ matrix.t()), (x_gradient[start:end], g @ matrix), (w_gradient[group], g.t() @ rows)):
            assert float((one - other).norm()) <= 5e-3 * float(other.norm())
    assert not y[ends[-1] :].any() and not x_gradient[ends[-1] :].any()


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
