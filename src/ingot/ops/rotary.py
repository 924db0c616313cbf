r"""Rotation of feature pairs (i, i + d/2) by given angles, in few passes both ways.

    y = x * [cos, cos] + swap(x) * [-sin, sin]        swap exchanges the halves of the last axis

The gradient is the rotation by the opposite angle, so only the angles are saved. Full-width passes over whole vectors beat passes
over half vectors on CPU, where each run of memory is then twice as long.

Shapes: x (..., d); cos, sin (..., d/2), broadcastable to x's other axes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x with every pair turned; cos and sin carry no gradient."""
    return _turn(x, cos, sin) if torch.compiler.is_compiling() else _Rotate.apply(x, cos, sin)


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The definition, pair by pair."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * torch.cat((cos, cos), -1), torch.cat((second, first), -1), torch.cat((-sin, sin), -1))


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, cos, sin):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return rotate(g, cos, -sin), None, None
