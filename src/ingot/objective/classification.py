r"""The class of a row, from an encoder of any modality.

    loss = -sum_c q_c log softmax(W pool(h) + b)_c        q = (1 - e) onehot(label) + e / C

Smoothing e: Szegedy et al. 2015, arXiv:1512.00567, section 7. Rows mixed with another (mixup, cutmix) have
q = s onehot(label) + (1 - s) onehot(label_other), then smoothed.   W: (C, D)   Cost: 2 D C per row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.parts import Fraction, Positive, Slot, part
from ..core.seams import Field
from ..nn.pooling import Pooling
from ._pooled import PooledObjective


@part
class Classification(PooledObjective):
    """classes: C, those of the data when not given. pooling: which positions speak for the row: their mean, the first (a class
    token) or the last. norm: on the pooled vector. smoothing: e. causal: whether the encoder may not look ahead."""

    reads = ("label",)

    def __init__(
        self,
        width: int,
        fields: Mapping[str, Field] | None = None,
        *,
        classes: Positive[int] | None = None,
        pooling: Pooling = "mean",
        norm: Slot["nn.norm"] | None = None,
        smoothing: Fraction = 0.0,
        causal: bool = False,
    ):
        known = (fields or {}).get("label")
        found = classes or (known.values if known else None)
        if found is None:
            raise UserError("objective.classes: the data does not say how many classes there are")
        super().__init__(width, found, pooling=pooling, norm=norm, causal=causal, axis="classes")
        self.classes, self.smoothing = found, smoothing

    def settled(self) -> dict[str, int]:
        """What the data decided."""
        return {"classes": self.classes}

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds units: 1 for a row with a label."""
        if "label" not in batch:
            raise UserError("classification needs rows with a label; name the column of labels in data.train")
        scored = (batch["label"] >= 0) & (batch["rows"] >= 0)
        return batch | {"units": scored.long()}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        scores_BC = self.logits(model, self.features(model, batch)).log_softmax(dim=-1)
        return {"cross_entropy": -(self._targets(batch, scores_BC.dtype) * scores_BC).sum(dim=1) * batch["units"]}

    def _targets(self, batch: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """q, (B, C)."""
        q_BC = F.one_hot(batch["label"].clamp(min=0), self.classes).to(dtype)
        if "label_share" in batch:
            share_B1 = batch["label_share"].to(dtype)[:, None]
            q_BC = share_B1 * q_BC + (1 - share_B1) * F.one_hot(batch["label_other"].clamp(min=0), self.classes).to(dtype)
        return q_BC * (1 - self.smoothing) + self.smoothing / self.classes if self.smoothing and self.training else q_BC

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per row, for evaluation: whether the likeliest class is right."""
        return {"accuracy": (self.logits(model, self.features(model, batch)).argmax(dim=-1) == batch["label"]).to(torch.float64)}
