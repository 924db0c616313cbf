r"""Feed-forward with a gated Gaussian error linear unit.   Shazeer 2020, arXiv:2002.05202, equation 6; T5 1.1 and UL2.

    y = W_down (gelu(W_gate x) * W_up x)        gelu: its tanh approximation, or exact

Shapes: x_BTD, hidden (B, T, F).   Cost: 6 D F operations per position.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.parts import Positive, Spec, part
from ..context import Context
from ._width import gated


@part
class GEGLU(nn.Module):
    """hidden: F, 8/3 of the width rounded up to a multiple of 64 when not given. approximate: ``tanh`` is what T5 1.1 was trained with."""

    size = staticmethod(gated)

    def __init__(
        self,
        width: int,
        linear: Spec,
        *,
        hidden: Positive[int] | None = None,
        bias: bool = False,
        approximate: Literal["none", "tanh"] = "tanh",
    ):
        super().__init__()
        hidden = self.size(width, hidden)
        self.approximate = approximate
        self.gate = linear.build(inputs=width, outputs=hidden, bias=bias, axes=("hidden", "width"), role="matrix")
        self.up = linear.build(inputs=width, outputs=hidden, bias=bias, axes=("hidden", "width"), role="matrix")
        self.down = linear.build(inputs=hidden, outputs=width, bias=bias, axes=("width", "hidden"), role="matrix")

    def forward(self, x_BTD: Tensor, context: Context | None = None) -> Tensor:
        return self.down(F.gelu(self.gate(x_BTD), approximate=self.approximate) * self.up(x_BTD))
