"""What the placements share: a mixer and a feed-forward, in a decoder a cross mixer between them, a norm for each, and dropout on
what is added."""

from __future__ import annotations

from torch import nn

from ...core.parts import Spec
from ..dropout import Dropout


class Residual(nn.Module):
    """Children of every block. normalizes_output: whether what leaves the block is already normalized."""

    normalizes_output = False

    def __init__(
        self, width: int, mixer: nn.Module, feedforward: nn.Module, norm: Spec, dropout: float = 0.0, cross: nn.Module | None = None
    ):
        super().__init__()
        self.mixer_norm = norm.build(width=width)
        self.mixer = mixer
        self.mixer_dropout = Dropout(dropout)
        if cross is not None:
            self.cross_norm = norm.build(width=width)
            self.cross_dropout = Dropout(dropout)
        self.cross = cross
        self.feedforward_norm = norm.build(width=width)
        self.feedforward = feedforward
        self.feedforward_dropout = Dropout(dropout)
