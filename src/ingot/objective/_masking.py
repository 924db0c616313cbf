r"""Masks over time in stretches, drawn by row.   Baevski et al. 2020 (wav2vec 2.0), arXiv:2006.11477, section 4.1 and appendix A.

Of a row of T positions floor(share T / span + u) become starts, u uniform, without repetition; from each the next ``span`` are masked;
stretches may overlap. Rows shorter than two spans are masked in stretches of half of them.   B rows   T positions
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.axes import label
from ..ops.random import hash_uniform, salt_of


class Hidden(nn.Module):
    """The vector (D,) at masked positions."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width).uniform_())
        label(self, "weight", "width", role="embedding")

    def initial(self, name: str, generator: torch.Generator) -> Tensor:
        """Uniform from 0 to 1, as published."""
        return torch.empty(self.weight.shape).uniform_(generator=generator)


def places(embedding: Any, batch: dict[str, Tensor]) -> tuple[int, Tensor]:
    """T, and (B,) how many positions of each row are real; a padding row has none."""
    T = prod(embedding.grid(batch))
    lengths = embedding.lengths(batch) if hasattr(embedding, "lengths") else None
    length_B = torch.full_like(batch["rows"], T) if lengths is None else lengths.to(torch.int64)
    return T, length_B * (batch["rows"] >= 0)


def stretches(batch: dict[str, Tensor], T: int, length_B: Tensor, share: float, span: int, least: int, name: str) -> Tensor:
    """(B, T) bool: the mask. share: of positions that would be masked did stretches not overlap. least: starts in a row, at least."""
    rows, key, device = batch["rows"], batch["key"], length_B.device
    u_B = hash_uniform(rows, 1, key, salt_of(f"{name}/count"))[:, 0].to(device)
    order_BT = hash_uniform(rows, T, key, salt_of(f"{name}/starts")).to(device)
    span_B = torch.minimum(torch.full_like(length_B, span), (length_B // 2).clamp(min=1))
    starts_B = (share * length_B / span_B + u_B).floor().long().clamp(min=least)
    place_T = torch.arange(T, device=device)
    possible_BT = place_T < (length_B - span_B + 1)[:, None]
    order_BT = torch.where(possible_BT, order_BT, 2.0)
    rank_BT = order_BT.argsort(dim=1, stable=True).argsort(dim=1)
    start_BT = possible_BT & (rank_BT < starts_B[:, None]) & (length_B > 0)[:, None]
    before_BT = F.pad(start_BT.long().cumsum(dim=1), (1, 0))
    first_BT = (place_T - span_B[:, None] + 1).clamp(min=0)
    return (before_BT[:, 1:] - before_BT.gather(1, first_BT)) > 0


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1, for cosines."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1, eps=1e-8)
