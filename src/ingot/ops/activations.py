r"""Activations whose composed backward pass takes more passes over memory than it needs.

    squared_relu   y = relu(x)^2        dy/dx = 2 relu(x)       So et al. 2021, arXiv:2109.08668, section 3.1

Shapes: any; y as x.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)^2; saves relu(x) for the backward pass."""
    return squared_relu_reference(x) if torch.compiler.is_compiling() else _SquaredReLU.apply(x)[0]


def squared_relu_reference(x: Tensor) -> Tensor:
    """The definition."""
    return F.relu(x).square()


class _SquaredReLU(torch.autograd.Function):
    """Gives relu(x) as a second output, so that what it saves is part of the graph when the gradient is differentiated again."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        r = F.relu(x)
        ctx.save_for_backward(r)
        ctx.set_materialize_grads(False)
        return r * r, r

    @staticmethod
    def backward(ctx, g, g_r):  # type: ignore[no-untyped-def]
        (r,) = ctx.saved_tensors
        through = None if g is None else torch.addcmul(g.new_zeros(()), g, r, value=2)
        if g_r is None:
            return through
        kept = g_r.masked_fill(r <= 0, 0)
        return kept if through is None else through + kept
