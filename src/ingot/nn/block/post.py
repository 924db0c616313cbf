r"""Norms after each residual sum, as in the first transformers and BERT.   Vaswani et al. 2017, arXiv:1706.03762, section 3.1.

x = norm(x + mixer(x))        x = norm(x + feedforward(x))
"""

from __future__ import annotations

from torch import Tensor, nn

from ...core.parts import Spec, part
from ..context import Context
from ._residual import Residual


@part
class Post(Residual):
    """x: (B, T, D) -> the same, normalized."""

    normalizes_output = True

    def __init__(
        self, width: int, mixer: nn.Module, feedforward: nn.Module, norm: Spec, dropout: float = 0.0, cross: nn.Module | None = None
    ):
        super().__init__(width, mixer, feedforward, norm, dropout, cross)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        x_BTD = self.mixer_norm(x_BTD + self.mixer_dropout(self.mixer(x_BTD, context), context))
        if self.cross is not None:
            x_BTD = self.cross_norm(x_BTD + self.cross_dropout(self.cross(x_BTD, context), context))
        return self.feedforward_norm(x_BTD + self.feedforward_dropout(self.feedforward(x_BTD, context), context))
