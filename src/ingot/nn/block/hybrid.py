r"""Norms before and after each layer, inside the residual branch.   Gemma 2, arXiv:2408.00118, section 2.

x = x + norm'(mixer(norm(x)))        x = x + norm'(feedforward(norm(x)))
"""

from __future__ import annotations

from torch import Tensor, nn

from ...core.parts import Spec, part
from ..context import Context
from ._residual import Residual


@part
class Hybrid(Residual):
    """x: (B, T, D) -> the same; what each layer adds is normalized, the residual stream is not."""

    def __init__(
        self, width: int, mixer: nn.Module, feedforward: nn.Module, norm: Spec, dropout: float = 0.0, cross: nn.Module | None = None
    ):
        super().__init__(width, mixer, feedforward, norm, dropout, cross)
        self.mixer_post_norm = norm.build(width=width)
        self.cross_post_norm = norm.build(width=width) if cross is not None else None
        self.feedforward_post_norm = norm.build(width=width)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        mixed = self.mixer_post_norm(self.mixer(self.mixer_norm(x_BTD), context))
        x_BTD = x_BTD + self.mixer_dropout(mixed, context)
        if self.cross is not None:
            crossed = self.cross_post_norm(self.cross(self.cross_norm(x_BTD), context))
            x_BTD = x_BTD + self.cross_dropout(crossed, context)
        fed = self.feedforward_post_norm(self.feedforward(self.feedforward_norm(x_BTD), context))
        return x_BTD + self.feedforward_dropout(fed, context)
