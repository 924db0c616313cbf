r"""Feed-forward with a squared ReLU.   So et al. 2021, arXiv:2109.08668, section 3.1 (Primer).

    y = W_down relu(W_up x)^2

Shapes: x_BTD, hidden (B, T, F).   Cost: 4 D F operations per position.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...core.parts import Positive, Spec, part
from ...ops.activations import squared_relu
from ..context import Context
from ._width import fourfold


@part
class ReLU2(nn.Module):
    """hidden: F, four times the width when not given."""

    size = staticmethod(fourfold)

    def __init__(self, width: int, linear: Spec, *, hidden: Positive[int] | None = None, bias: bool = False):
        super().__init__()
        hidden = self.size(width, hidden)
        self.up = linear.build(inputs=width, outputs=hidden, bias=bias, axes=("hidden", "width"), role="matrix")
        self.down = linear.build(inputs=hidden, outputs=width, bias=bias, axes=("width", "hidden"), role="matrix")

    def forward(self, x_BTD: Tensor, context: Context | None = None) -> Tensor:
        return self.down(squared_relu(self.up(x_BTD)))
