r"""Feed-forward with a Gaussian error linear unit.   Hendrycks & Gimpel 2016, arXiv:1606.08415.

    y = W_down gelu(W_up x)        gelu(x) = x Phi(x), or its tanh approximation

Shapes: x_BTD, hidden (B, T, F).   Cost: 4 D F operations per position.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.parts import Positive, Spec, part
from ..context import Context
from ._width import fourfold


@part
class GELU(nn.Module):
    """hidden: F, four times the width when not given. approximate: ``tanh`` is what GPT-2 was trained with, ``quick``, x sigmoid(1.702 x), CLIP."""

    size = staticmethod(fourfold)

    def __init__(
        self,
        width: int,
        linear: Spec,
        *,
        hidden: Positive[int] | None = None,
        bias: bool = False,
        approximate: Literal["none", "tanh", "quick"] = "none",
    ):
        super().__init__()
        hidden = self.size(width, hidden)
        self.approximate = approximate
        self.up = linear.build(inputs=width, outputs=hidden, bias=bias, axes=("hidden", "width"), role="matrix")
        self.down = linear.build(inputs=hidden, outputs=width, bias=bias, axes=("width", "hidden"), role="matrix")

    def forward(self, x_BTD: Tensor, context: Context | None = None) -> Tensor:
        up_BTF = self.up(x_BTD)
        return self.down(
            up_BTF * (1.702 * up_BTF).sigmoid() if self.approximate == "quick" else F.gelu(up_BTF, approximate=self.approximate)
        )
