r"""Convolution over time of rows that lie end to end, as matrix products that copy nothing.

    y_n = bias + sum_k W_k x_(n s + k)        s: stride        positions past the end count as 0

Rows of P positions, P a multiple of the stride, lie behind each other in one matrix, so that s neighbors are one row of a matrix of
s C columns, and every s taps of the kernel are one product with it, the later ones with its later rows. An output that reads across the
end of a row is not of that row: whoever lays rows out gives them room, passes over those outputs, and gives them no gradient.

Convolution kernels want another layout than norms and projections do, and copy between them: on a CPU that takes longer than the products.

Shapes: x (N s, C), W (O, C, K), bias (O,) -> y (N, O).   Cost: 2 C O K an output, twice that backward.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

NARROW = 64  # columns below which all taps are laid out for one product: several of so few do not pay


def convolve(x_MC: Tensor, weight_OCK: Tensor, stride: int, bias_O: Tensor | None = None) -> Tensor:
    """As above, in x's type, which weight and bias have too. Raises ValueError where the stride does not divide the positions."""
    if len(x_MC) % stride:
        raise ValueError(f"{len(x_MC)} positions are no multiple of the stride {stride}")
    found: Tensor = _Products.apply(x_MC, weight_OCK, stride)
    return found if bias_O is None else found + bias_O


def convolve_reference(x_MC: Tensor, weight_OCK: Tensor, stride: int, bias_O: Tensor | None = None) -> Tensor:
    """The definition: torch's convolution of one long row."""
    return F.conv1d(F.pad(x_MC.t()[None], (0, weight_OCK.shape[2] - stride)), weight_OCK, bias_O, stride)[0].t()


def _products(x_NF: Tensor, weight_OCK: Tensor, stride: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For every s taps the row that they begin at, the part of x's rows that they take, and their weight (O, columns)."""
    outputs, _, kernel = weight_OCK.shape
    taps_OKC = weight_OCK.permute(0, 2, 1)
    for at in range(-(-kernel // stride)):
        weight = taps_OKC[:, at * stride : (at + 1) * stride].reshape(outputs, -1)
        yield at, x_NF[at:, : weight.shape[1]], weight


def _rows(x_MC: Tensor, kernel: int, stride: int) -> tuple[Tensor, int]:
    """x in rows of s neighbors, or of all taps where they are narrow; and how many taps a row holds."""
    x_NF = x_MC.reshape(-1, stride * x_MC.shape[1])
    if kernel <= stride or x_NF.shape[1] >= NARROW:
        return x_NF, stride
    later = [F.pad(x_NF[at:], (0, 0, 0, min(at, len(x_NF)))) for at in range(-(-kernel // stride))]
    return torch.cat(later, 1)[:, : kernel * x_MC.shape[1]], kernel


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_MC, weight_OCK, stride):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x_MC, weight_OCK)
        ctx.stride = stride
        x_NF, taps = _rows(x_MC, weight_OCK.shape[2], stride)
        y_NO = x_MC.new_empty(len(x_NF), len(weight_OCK))
        for at, part, weight in _products(x_NF, weight_OCK, taps):
            _add_product(y_NO[: len(part)], part, weight.t(), anew=not at)
        return y_NO

    @staticmethod
    def backward(ctx, g_NO):  # type: ignore[no-untyped-def]
        x_MC, weight_OCK = ctx.saved_tensors
        want_x, want_w, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph: a gradient that can be differentiated again
            wanted = [t for t, needed in zip((x_MC, weight_OCK), (want_x, want_w)) if needed]
            found = iter(torch.autograd.grad(convolve_reference(x_MC, weight_OCK, ctx.stride), wanted, g_NO, create_graph=True))
            return *(next(found) if needed else None for needed in (want_x, want_w)), None
        return (
            _gradient_of_x(g_NO, weight_OCK, x_MC.shape, ctx.stride) if want_x else None,
            _gradient_of_weight(g_NO, weight_OCK, x_MC, ctx.stride) if want_w else None,
            None,
        )


def _gradient_of_x(g_NO: Tensor, weight_OCK: Tensor, shape: torch.Size, stride: int) -> Tensor:
    dx_NF = g_NO.new_zeros(len(g_NO), stride * shape[1])
    for at, part, weight in _products(dx_NF, weight_OCK, stride):
        _add_product(part, g_NO[: len(part)], weight, anew=not at)
    return dx_NF.view(shape)


def _gradient_of_weight(g_NO: Tensor, weight_OCK: Tensor, x_MC: Tensor, stride: int) -> Tensor:
    outputs, channels, kernel = weight_OCK.shape
    x_NF, taps = _rows(x_MC, kernel, stride)
    found = [g_NO[: len(part)].t() @ part for _, part, _ in _products(x_NF, weight_OCK, taps)]
    return torch.cat(found, 1).view(outputs, kernel, channels).permute(0, 2, 1)


def _add_product(result: Tensor, left: Tensor, right: Tensor, *, anew: bool) -> None:
    """Into the result, in place: set to the product where it is the first, else added."""
    if anew:
        torch.mm(left, right, out=result)
    else:
        torch.addmm(result, left, right, out=result)
