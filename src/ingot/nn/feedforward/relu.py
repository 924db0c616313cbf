r"""Feed-forward with a rectified linear unit.   Vaswani et al. 2017, arXiv:1706.03762, section 3.3; T5.

    y = W_down relu(W_up x)

Shapes: x_BTD, hidden (B, T, F).   Cost: 4 D F operations per position.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.parts import Positive, Spec, part
from ..context import Context
from ._width import fourfold


@part
class ReLU(nn.Module):
    """hidden: F, four times the width when not given."""

    size = staticmethod(fourfold)

    def __init__(self, width: int, linear: Spec, *, hidden: Positive[int] | None = None, bias: bool = False):
        super().__init__()
        hidden = self.size(width, hidden)
        self.up = linear.build(inputs=width, outputs=hidden, bias=bias, axes=("hidden", "width"), role="matrix")
        self.down = linear.build(inputs=hidden, outputs=width, bias=bias, axes=("width", "hidden"), role="matrix")

    def forward(self, x_BTD: Tensor, context: Context | None = None) -> Tensor:
        return self.down(F.relu(self.up(x_BTD)))
