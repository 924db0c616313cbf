r"""Feed-forward with a gated SiLU.   Shazeer 2020, arXiv:2002.05202, equation 6.

    y = W_down (silu(W_gate x) * W_up x)

Shapes: x_BTD, hidden (B, T, F).   Cost: 6 D F operations per position.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.parts import Positive, Spec, part
from ..context import Context
from ._width import gated


@part
class SwiGLU(nn.Module):
    """hidden: F, 8/3 of the width rounded up to a multiple of 64 when not given."""

    size = staticmethod(gated)

    def __init__(self, width: int, linear: Spec, *, hidden: Positive[int] | None = None, bias: bool = False):
        super().__init__()
        hidden = self.size(width, hidden)
        self.gate = linear.build(inputs=width, outputs=hidden, bias=bias, axes=("hidden", "width"), role="matrix")
        self.up = linear.build(inputs=width, outputs=hidden, bias=bias, axes=("hidden", "width"), role="matrix")
        self.down = linear.build(inputs=hidden, outputs=width, bias=bias, axes=("width", "hidden"), role="matrix")

    def forward(self, x_BTD: Tensor, context: Context | None = None) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))
