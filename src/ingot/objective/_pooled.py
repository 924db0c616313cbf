"""What objectives share that read one vector per row: pooling, a norm, a linear head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.axes import label
from ..core.parts import Spec
from ..nn.pooling import Pooling, pooled


class RowHead(nn.Module):
    """weight (outputs, width), bias (outputs,). Some read the two by themselves, such as a row for every column of a table."""

    def __init__(self, width: int, outputs: int, axis: str):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, width))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", axis, "width", role="head")
        label(self, "bias", axis, role="bias")

    def forward(self, h: Tensor) -> Tensor:
        """(..., D) -> (..., outputs), in fp32 at least."""
        scores = F.linear(h, self.weight.to(h.dtype))
        scores = scores.to(torch.promote_types(h.dtype, torch.float32))
        return scores + self.bias.to(scores.dtype)


class PooledObjective(nn.Module):
    """outputs: of the head; axis: their name. output_scale: set by width-transferring initial values; 1 otherwise."""

    couples_batch = False

    def __init__(self, width: int, outputs: int, *, pooling: Pooling, norm: Spec | None, causal: bool, axis: str):
        super().__init__()
        self.pooling, self.causal, self.output_scale = pooling, causal, 1.0
        self.norm = norm.build(width=width) if norm else None
        self.head = RowHead(width, outputs, axis)

    def features(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """(B, D), what the head reads."""
        h_BTD, context = model.encoded(batch, causal=self.causal)
        h_BD = pooled(h_BTD, context, self.pooling, int(getattr(model.embedding, "leading", 0)))
        return h_BD if self.norm is None else self.norm(h_BD)

    def logits(self, model: Any, h: Tensor) -> Tensor:
        """(..., D) -> (..., outputs), in fp32 at least."""
        scores: Tensor = self.head(h * self.output_scale if self.output_scale != 1.0 else h)
        return scores
