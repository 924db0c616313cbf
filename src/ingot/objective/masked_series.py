r"""Hidden stretches of a time series, told from the rest.   Nie et al. 2022 (PatchTST), arXiv:2211.14730, section 3.2; MOMENT,
Goswami et al. 2024, arXiv:2402.03885.

    loss = sum over hidden t of mean over p of (V h_t + c - z_t)_p^2        z_t: the patch, normalized as the embedding reads it

Every channel has ``rate`` of its patches hidden, drawn from (seed, row, channel). A hidden patch is a learned vector (MOMENT) or a
patch of zeros (PatchTST). Values that were not observed are not scored. Patches should not overlap: stride = patch.

V: (P, D)   Cost: 2 P D per hidden position.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.parts import Fraction, part
from ..nn.subset import draw
from ..nn.vector import Vector
from ..ops.random import salt_of
from ._pooled import RowHead


@part
class MaskedSeries(nn.Module):
    """rate: share of every channel's patches that is hidden. hide: by a learned vector, or by values of zero. consistent: the same
    patches of all channels."""

    reads = ("series",)
    causal, couples_batch = False, False

    def __init__(
        self, width: int, embedding: Any, *, rate: Fraction = 0.4, hide: Literal["vector", "zeros"] = "vector", consistent: bool = False
    ):
        super().__init__()
        self.embedding, self.rate, self.consistent, self.output_scale = embedding, rate, consistent, 1.0
        self.channels, self.positions = embedding.size
        self.mask = Vector(width) if hide == "vector" else None
        self.head = RowHead(width, embedding.patch, "patch")
        self.salt = salt_of("masked series")

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds masked (B, T) and units: hidden patches of which something was observed."""
        rows, C, N = batch["rows"], self.channels, self.positions
        count = min(N, max(1, round(self.rate * N)))
        salt = torch.tensor(self.salt, device=rows.device)
        hidden = [
            torch.zeros(len(rows), N, dtype=torch.bool, device=rows.device).scatter(1, draw(N, count, rows, batch["key"], salt + c), True)
            for c in range(1 if self.consistent else C)
        ]
        masked_BT = torch.cat(hidden * (C if self.consistent else 1), dim=1)
        scored_BT = masked_BT & self.embedding.seen(batch).any(dim=2) & (rows >= 0)[:, None]
        return batch | {"masked": masked_BT, "units": scored_BT.sum(dim=1)}

    def forward(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h_BTD = (
            model.encode(batch, causal=False, hide=self.mask.weight)
            if self.mask is not None
            else model.encode(batch | {"blanked": batch["masked"]}, causal=False)
        )
        y_BTP = self.logits(model, h_BTD)
        seen_BTP = self.embedding.seen(batch)
        squared_BTP = (y_BTP - self.embedding.values(batch).to(y_BTP.dtype)) ** 2 * seen_BTP
        loss_BT = squared_BTP.sum(dim=2) / seen_BTP.sum(dim=2).clamp(min=1)
        return {"squared_error": (loss_BT * (batch["masked"] & (batch["rows"] >= 0)[:, None])).sum(dim=1)}

    def logits(self, model: Any, h: Tensor) -> Tensor:
        """(..., D) -> the patch (..., P), in fp32 at least."""
        return self.head(h * self.output_scale if self.output_scale != 1.0 else h)

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per row, for evaluation: the error as a share of what guessing 0, the channel's mean, would give."""
        seen_BTP = self.embedding.seen(batch)
        base_BT = (self.embedding.values(batch).double() ** 2 * seen_BTP).sum(dim=2) / seen_BTP.sum(dim=2).clamp(min=1)
        base_B = (base_BT * batch["masked"]).sum(dim=1)
        return {"relative_error": self(model, batch)["squared_error"].double() / base_B.clamp(min=1e-12)}
