r"""Learned positions, added to the embedding.   Devlin et al. 2018, arXiv:1810.04805; Radford et al. 2018.

y_t = P_t        P: (positions, width)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.axes import label
from ...core.parts import Positive, part


@part
class Learned(nn.Module):
    """positions_BT -> (B, T, width). size: longest position plus one; the model's sequence length when not given."""

    additive = True

    def __init__(self, width: int, sequence: int, *, size: Positive[int] | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size or sequence, width))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "positions", "width", role="position")

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        size, sequence = knobs["size"], context.get("sequence")
        if size is not None and sequence is not None and size < sequence:
            yield f"learned positions end at {size}, but rows have {sequence} tokens; set size to at least {sequence}"

    def forward(self, positions_BT: Tensor) -> Tensor:
        return F.embedding(positions_BT, self.weight)
