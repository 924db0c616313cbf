r"""Matrix products of rows sorted into groups, each group with a matrix of its own: what a mixture of experts computes.

    grouped_matmul   y_m = W_e x_m            for the rows m of group e, zero for rows behind the last group
    grouped_outer    G_e = sum_m g_m x_m^T    over the rows m of group e

Products are made in the dtype of the rows. Matrices may be kept in another, as masters are: each is cast when its turn comes, while it
is in the cache, so neither a cast stack nor its gradient is ever whole in memory, and what no row needs is not cast.

ends_E holds the row behind each group's last one, ascending; group e is rows [ends_{e-1}, ends_e). The two are each other's
derivatives, so gradients of any order are made of them. Their output shapes do not depend on the ends, so they compile and can be
pretended. On CUDA in bf16 they are torch's grouped kernels, which read the ends on the device (that path has not been measured);
elsewhere one matrix product per group, written into its segment of one output. In low precision on a CPU that costs a new kernel
for every number of rows not met before, which takes longer than a product of some hundred rows: there groups are rounded up to one of
sixteen sizes an octave (3 % more rows on average, which the meter does not count).

    spread    the K copies of every position, sorted by group      collect   their sum back at the position; each other's derivative

Shapes: M rows, I features in, O features out, E groups, N positions, K copies of each (M = N K).
Cost: 2 O I operations per row in a group, each way; nothing for rows behind the last group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def grouped_matmul(x_MI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """(M, O) in x's dtype, to which the weight is cast; rows behind the last group are zero."""
    result: Tensor = torch.ops.ingot.grouped_matmul(x_MI, weight_EOI, ends_E)
    return result


def grouped_outer(g_MO: Tensor, x_MI: Tensor, ends_E: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(E, O, I), computed in x's dtype and kept in ``dtype``, or x's; zero for an empty group."""
    result: Tensor = torch.ops.ingot.grouped_outer(g_MO, x_MI, ends_E, dtype)
    return result


def grouped_matmul_reference(x_MI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """The definition, row by row, plain autograd."""
    group_M = group_of_rows(len(x_MI), ends_E)
    padded = torch.cat([weight_EOI, weight_EOI.new_zeros(1, *weight_EOI.shape[1:])])
    return torch.stack([padded[group] @ row for row, group in zip(x_MI, group_M.tolist(), strict=True)])


def group_of_rows(rows: int, ends_E: Tensor) -> Tensor:
    """(rows,) the group of each row; E behind the last group."""
    return torch.searchsorted(ends_E, torch.arange(rows, device=ends_E.device, dtype=ends_E.dtype), right=True)


def ends_of(sorted_M: Tensor, groups: int) -> Tensor:
    """(E,) int32 ends of the groups 0 .. E-1 in ascending group numbers; larger numbers lie behind the last group."""
    return torch.searchsorted(sorted_M, torch.arange(groups, device=sorted_M.device, dtype=sorted_M.dtype), right=True).int()


def spread(x_ND: Tensor, order_M: Tensor, inverse_M: Tensor) -> Tensor:
    """(M, D): row m is the position of copy order_M[m]; the copies of position n are numbered n K .. n K + K - 1. inverse_M: of the order."""
    return _Spread.apply(x_ND, order_M, inverse_M)


def collect(y_MD: Tensor, order_M: Tensor, inverse_M: Tensor, copies: int) -> Tensor:
    """(N, D): the sum over the copies of each position."""
    return _Collect.apply(y_MD, order_M, inverse_M, copies)


class _Spread(torch.autograd.Function):
    """Its derivative gathers and adds neighbors, where that of plain indexing would scatter."""

    @staticmethod
    def forward(ctx, x, order, inverse):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(order, inverse)
        ctx.copies = len(order) // max(1, len(x))
        return x.index_select(0, order // ctx.copies if ctx.copies > 1 else order)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return _Collect.apply(g, *ctx.saved_tensors, ctx.copies), None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, order, inverse, copies):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(order, inverse)
        total = y.index_select(0, inverse[0::copies])
        # More than one rounding in between wants a wider sum; torch's own sum over so short an axis is several times slower.
        wide = total if copies <= 2 else total.to(torch.promote_types(total.dtype, torch.float32))
        for copy in range(1, copies):
            wide = wide + y.index_select(0, inverse[copy::copies])
        return wide.to(y.dtype)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return _Spread.apply(g, *ctx.saved_tensors), None, None, None


# ---- the operators: what the compiler, the meter and autograd see -------------------------------------------------------------

_library = torch.library.Library("ingot", "FRAGMENT")
_library.define("grouped_matmul(Tensor x, Tensor weight, Tensor ends) -> Tensor")
_library.define("grouped_outer(Tensor gradient, Tensor x, Tensor ends, ScalarType? dtype=None) -> Tensor")


def _kernel_fits(*operands: Tensor) -> bool:
    """Whether torch's grouped kernel takes these: bf16 on CUDA, rows of a multiple of 16 bytes."""
    return all(t.is_cuda and t.dtype == torch.bfloat16 and t.shape[-1] % 8 == 0 and t.shape[-2] % 8 == 0 for t in operands)


def _segments(ends: Tensor) -> list[tuple[int, int, int]]:
    """(group, start, end) of the groups that are not empty."""
    found, start = [], 0
    for group, end in enumerate(ends.tolist()):
        if end > start:
            found.append((group, start, end))
            start = end
    return found


def _rounded(rows: int, like: Tensor) -> int:
    """The number of rows to multiply: where kernels are made for each, one of sixteen between powers of two."""
    if like.is_cuda or like.dtype not in (torch.bfloat16, torch.float16):
        return rows
    step = 1 << max(4, (rows - 1).bit_length() - 5)
    return -(-rows // step) * step


def _matmul(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    if x.is_cuda and _kernel_fits(cast := weight.to(x.dtype)) and x.shape[1] % 8 == 0:
        y = torch._grouped_mm(x.contiguous(), cast.transpose(1, 2), offs=ends)
        behind = torch.arange(len(y), device=y.device) >= ends[-1]
        return y.masked_fill_(behind[:, None], 0)
    y = x.new_empty(x.shape[0], weight.shape[1])
    kept = None if weight.dtype == x.dtype or not len(weight) else torch.empty_like(weight[0], dtype=x.dtype)
    done = 0
    for group, start, end in _segments(ends):
        one = weight[group] if kept is None else kept.copy_(weight[group])
        rows = _rounded(end - start, x)
        if start + rows <= len(x):  # rows of the next groups are written too, and then by these groups themselves
            torch.mm(x[start : start + rows], one.t(), out=y[start : start + rows])
        elif rows <= end:
            y[start:end] = torch.mm(x[end - rows : end], one.t())[start - end :]
        else:
            torch.mm(x[start:end], one.t(), out=y[start:end])
        done = end
    y[done:].zero_()
    return y


def _outer(gradient: Tensor, x: Tensor, ends: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    if _kernel_fits(gradient, x):
        result: Tensor = torch._grouped_mm(gradient.t(), x, offs=ends)
        return result.to(dtype or x.dtype)
    found = x.new_empty(len(ends), gradient.shape[1], x.shape[1], dtype=dtype)
    product = None if found.dtype == x.dtype else x.new_empty(found.shape[1:])
    empty = torch.ones(len(ends), dtype=torch.bool)
    segments = _segments(ends)
    for group, start, end in segments:
        rows = _rounded(end - start, x)
        left, right = gradient[start : start + rows], x[start : start + rows]
        inside = start + rows <= segments[-1][2]  # one side's zeros are then enough, for the other's are rows of the next groups
        if not inside or left.shape[1] <= right.shape[1]:
            left = _padded(left[: end - start], rows)
        if not inside or left.shape[1] > right.shape[1]:
            right = _padded(right[: end - start], rows)
        torch.mm(left.t(), right, out=found[group] if product is None else product)
        if product is not None:
            found[group].copy_(product)
        empty[group] = False
    for group in empty.nonzero()[:, 0].tolist():
        found[group].zero_()
    return found


def _padded(values: Tensor, rows: int) -> Tensor:
    """values with rows of zeros behind."""
    if len(values) == rows:
        return values
    found = values.new_empty(rows, values.shape[1])
    found[: len(values)] = values
    found[len(values) :].zero_()
    return found


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3])


def _derive_matmul(ctx, g):  # type: ignore[no-untyped-def]
    x, weight, ends = ctx.saved_tensors
    need_x, need_w, _ = ctx.needs_input_grad
    g = g.contiguous()
    return (
        grouped_matmul(g, weight.transpose(1, 2), ends) if need_x else None,
        grouped_outer(g, x, ends, weight.dtype) if need_w else None,
        None,
    )


def _derive_outer(ctx, g_EOI):  # type: ignore[no-untyped-def]
    gradient, x, ends = ctx.saved_tensors
    need_g, need_x = ctx.needs_input_grad[:2]
    return (
        grouped_matmul(x, g_EOI, ends) if need_g else None,
        grouped_matmul(gradient, g_EOI.transpose(1, 2), ends) if need_x else None,
        None,
        None,
    )


_library.impl("grouped_matmul", _matmul, "CompositeExplicitAutograd")
_library.impl("grouped_outer", _outer, "CompositeExplicitAutograd")
torch.library.register_fake("ingot::grouped_matmul", lambda x, weight, ends: x.new_empty(x.shape[0], weight.shape[1]))
torch.library.register_fake(
    "ingot::grouped_outer", lambda gradient, x, ends, dtype=None: x.new_empty(ends.shape[0], gradient.shape[1], x.shape[1], dtype=dtype)
)
torch.library.register_autograd("ingot::grouped_matmul", _derive_matmul, setup_context=_save)
torch.library.register_autograd("ingot::grouped_outer", _derive_outer, setup_context=_save)


def rows_in_groups(x: Tensor, ends: Tensor) -> int:
    """Rows that are multiplied; on meta or fake tensors all of them."""
    pretended = ends.device.type == "meta" or isinstance(ends, torch._subclasses.FakeTensor)
    return len(x) if pretended or not len(ends) else int(ends[-1])


def flops_of_matmul(x: Tensor, weight: Tensor, ends: Tensor, out_val: Any = None) -> int:
    """2 O I per row in a group."""
    return 2 * rows_in_groups(x, ends) * weight.shape[1] * weight.shape[2]


def flops_of_outer(gradient: Tensor, x: Tensor, ends: Tensor, dtype: torch.dtype | None = None, out_val: Any = None) -> int:
    """2 O I per row in a group."""
    return 2 * rows_in_groups(x, ends) * gradient.shape[1] * x.shape[1]
