r"""Norms before each layer.   Xiong et al. 2020, arXiv:2002.04745, figure 1(b); GPT-2.

x = x + mixer(norm(x))        x = x + feedforward(norm(x))
"""

from __future__ import annotations

from torch import Tensor, nn

from ...core.parts import Spec, part
from ..context import Context
from ._residual import Residual


@part
class Pre(Residual):
    """x: (B, T, D) -> the same; the residual stream itself is never normalized inside the stack."""

    def __init__(
        self, width: int, mixer: nn.Module, feedforward: nn.Module, norm: Spec, dropout: float = 0.0, cross: nn.Module | None = None
    ):
        super().__init__(width, mixer, feedforward, norm, dropout, cross)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        x_BTD = x_BTD + self.mixer_dropout(self.mixer(self.mixer_norm(x_BTD), context), context)
        if self.cross is not None:
            x_BTD = x_BTD + self.cross_dropout(self.cross(self.cross_norm(x_BTD), context), context)
        return x_BTD + self.feedforward_dropout(self.feedforward(self.feedforward_norm(x_BTD), context), context)
