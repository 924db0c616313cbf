r"""Numbers of a row, from an encoder of any modality.

    loss = sum_k |z_k - t_k|^2 / 2        t = (values - mean) / std, z = W pool(h) + b        values that are NaN are not scored

With ``huber`` d: the quadratic becomes linear above d (Huber 1964).   W: (K, D)   Cost: 2 D K per row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.parts import Positive, Slot, part
from ..core.seams import Field
from ..nn.pooling import Pooling
from ._pooled import PooledObjective


@part
class Regression(PooledObjective):
    """outputs: K, the number of the data's values when not given. mean, std: of the values, so that the head learns numbers of
    ordinary size; one for all, or one for each. huber: d. pooling, norm, causal: as in ``classification``."""

    reads = ("values",)

    def __init__(
        self,
        width: int,
        fields: Mapping[str, Field] | None = None,
        *,
        outputs: Positive[int] | None = None,
        mean: float | list[float] = 0.0,
        std: Positive[float] | list[float] = 1.0,
        huber: Positive[float] | None = None,
        pooling: Pooling = "mean",
        norm: Slot["nn.norm"] | None = None,
        causal: bool = False,
    ):
        known = (fields or {}).get("values")
        found = outputs or (known.shape[0] if known else None)
        if found is None:
            raise UserError("objective.outputs: the data does not say how many values a row has")
        if known is not None and known.shape[0] != found:
            raise UserError(f"objective.outputs: {found} numbers do not meet rows of {known.shape[0]} values")
        for name, value in (("mean", mean), ("std", std)):
            if isinstance(value, list) and len(value) not in (1, found):
                raise UserError(f"objective.{name} wants one number or one for each of {found} values, got {value}")
        super().__init__(width, found, pooling=pooling, norm=norm, causal=causal, axis="values")
        self.huber = huber
        self.mean, self.std = (value if isinstance(value, list) else [value] * found for value in (mean, std))

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds targets (B, K), NaN where not scored, and units: scored values."""
        if "values" not in batch:
            raise UserError("regression needs rows with values; name their columns in data.train")
        real = (batch["rows"] >= 0)[:, None] & batch["values"].isfinite()
        mean, std = self._scale(batch["values"])
        targets = torch.where(real, (batch["values"] - mean) / std, torch.nan)
        return batch | {"values_scaled": targets, "units": real.sum(dim=1)}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        z_BK = self.logits(model, self.features(model, batch))
        t_BK = batch["values_scaled"].to(z_BK.dtype)
        scored = t_BK.isfinite()
        t_BK = torch.where(scored, t_BK, 0.0)
        loss_BK = 0.5 * (z_BK - t_BK) ** 2 if self.huber is None else F.huber_loss(z_BK, t_BK, reduction="none", delta=self.huber)
        return {"squared_error" if self.huber is None else "huber": (loss_BK * scored).sum(dim=1)}

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.mean), like.new_tensor(self.std)

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per row, for evaluation, in the values' own units: mean absolute and squared error over the scored values."""
        mean, std = self._scale(batch["values"])
        z_BK = self.logits(model, self.features(model, batch)) * std + mean
        scored = batch["values_scaled"].isfinite()
        gap_BK = torch.where(scored, z_BK - batch["values"], 0.0).double()
        count = scored.sum(dim=1).clamp(min=1)
        return {"absolute_error": gap_BK.abs().sum(dim=1) / count, "mean_squared_error": (gap_BK**2).sum(dim=1) / count}
