"""One learned vector: in front of a row's positions, or where a position is hidden."""

from __future__ import annotations

import torch
from torch import nn

from ..core.axes import label


class Vector(nn.Module):
    """weight (D,)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "width", role="embedding")
