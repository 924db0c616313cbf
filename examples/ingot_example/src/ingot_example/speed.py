r"""Was this window of a series played at double speed?

Half of the rows, drawn from (seed, row), are read at every second value; the others are cut to the same length.

    loss = log(1 + exp(-(2 fast - 1) (w . mean_t h_t + b)))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ingot.core.axes import label
from ingot.core.parts import Fraction, part
from ingot.nn.pooling import pooled
from ingot.ops.random import hash_uniform, salt_of


@part
class Speed(nn.Module):
    """share: of the rows that are fast."""

    reads = ("series",)
    causal, couples_batch = False, False

    def __init__(self, width: int, *, share: Fraction = 0.5):
        super().__init__()
        self.share, self.salt = share, salt_of("speed")
        self.weight, self.bias = nn.Parameter(torch.zeros(1, width)), nn.Parameter(torch.zeros(1))
        label(self, "weight", "classes", "width", role="head")
        label(self, "bias", "classes", role="bias")

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds fast (B,) and units: one per row."""
        fast = hash_uniform(batch["rows"], 1, batch["key"], self.salt)[:, 0] < self.share
        series = batch["series"]
        half = series.shape[1] // 2
        played = torch.where(fast[:, None, None], series[:, : 2 * half : 2], series[:, :half])
        return batch | {"series": played, "fast": fast, "units": (batch["rows"] >= 0).long()}

    def score(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """(B,): above 0 where fast is likelier."""
        h, context = model.encoded(batch, causal=False)
        return (pooled(h, context) @ self.weight.T.to(h.dtype) + self.bias.to(h.dtype))[:, 0].float()

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        sign = 2.0 * batch["fast"].float() - 1
        return {"speed": F.softplus(-sign * self.score(model, batch)) * batch["units"]}

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """accuracy."""
        return {"accuracy": ((self.score(model, batch) > 0) == batch["fast"]).double()}
