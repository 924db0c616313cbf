"""One vector of many positions.   B rows, T positions, D features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .context import Context

Pooling = Literal["mean", "first", "last"]


def pooled(h_BTD: Tensor, context: Context, how: Pooling = "mean", leading: int = 0) -> Tensor:
    """(B, D). mean: of the real positions behind the leading ones; first: the first, a class token where there is one;
    last: the last real one, for causal encoders. Padding is left out; a row of nothing but padding gives zeros, or its first position."""
    if how == "first":
        return h_BTD[:, 0]
    segments_BT = context.segments_BT
    real_BT = torch.ones(h_BTD.shape[:2], dtype=torch.bool, device=h_BTD.device) if segments_BT is None else segments_BT > 0
    if how == "last":
        place_BT = torch.arange(h_BTD.shape[1], device=h_BTD.device) * real_BT
        return h_BTD[torch.arange(len(h_BTD), device=h_BTD.device), place_BT.argmax(dim=1)]
    weight_BT = real_BT.to(h_BTD.dtype)
    if leading:
        weight_BT = torch.cat([torch.zeros_like(weight_BT[:, :leading]), weight_BT[:, leading:]], dim=1)
    return torch.einsum("btd,bt->bd", h_BTD, weight_BT) / weight_BT.sum(dim=1, keepdim=True).clamp(min=1)
