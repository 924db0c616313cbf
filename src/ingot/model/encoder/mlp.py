"""A stack of residual feed-forward layers that never mix positions: a light adapter.   Vouitsis et al. 2024, arXiv:2312.10144, section 6.1.

    x <- x + f(norm(x)), depth times; then a norm

x_BTD -> x_BTD   Cost: depth times that of a feed-forward.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...core.parts import Fraction, Positive, Slot, part
from ...nn.context import Context
from ...nn.dropout import Dropout


class Layer(nn.Module):
    """x + f(norm(x))."""

    def __init__(self, width: int, feedforward: nn.Module, norm: nn.Module, dropout: float):
        super().__init__()
        self.feedforward_norm, self.feedforward, self.feedforward_dropout = norm, feedforward, Dropout(dropout)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        found: Tensor = x_BTD + self.feedforward_dropout(self.feedforward(self.feedforward_norm(x_BTD), context), context)
        return found


@part
class MLP(nn.Module):
    """depth: layers. linear: the kind of every projection. dropout: rate on what each layer adds. final_norm: a norm on the result."""

    attends = "nothing"

    def __init__(
        self,
        width: int,
        sequence: int,
        *,
        depth: Positive[int],
        feedforward: Slot["nn.feedforward"] = "gelu",
        norm: Slot["nn.norm"] = "layer",
        linear: Slot["nn.linear"] = "dense",
        dropout: Fraction = 0.0,
        final_norm: bool = True,
    ):
        super().__init__()
        self.width, self.depth, self.sequence = width, depth, sequence
        self.blocks = nn.ModuleList()
        for layer in range(depth):
            wiring = {"width": width, "linear": linear, "layer": layer, "depth": depth, "sequence": sequence}
            self.blocks.append(Layer(width, feedforward.build(**wiring), norm.build(width=width), dropout))
        self.norm = norm.build(width=width) if final_norm else None

    def compile_blocks(self, **options: Any) -> None:
        """Compile each layer by itself."""
        for block in self.blocks:
            block.compile(**options)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        x_BTD = self.through(x_BTD, context, 0, self.depth)
        return x_BTD if self.norm is None else self.norm(x_BTD)

    def through(self, x_BTD: Tensor, context: Context, start: int, end: int) -> Tensor:
        """The layers from start up to end alone."""
        for block in self.blocks[start:end]:
            x_BTD = block(x_BTD, context)
        return x_BTD
