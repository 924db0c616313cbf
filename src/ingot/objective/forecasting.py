r"""What follows a window of a time series.   Nie et al. 2022 (PatchTST), arXiv:2211.14730; quantiles: Lim et al. 2019, arXiv:1912.09363.

    y_c = W [h_c1, ..., h_cN] + b        brought back from the embedding's normalization: y_c s_c + m_c

    mean        loss = sum over observed (y - future)^2
    quantiles   loss = sum over observed, q of 2 max(q e, (q - 1) e)        e = future - y_q, divided by the number of quantiles

One head for all channels; with ``pooling: mean`` it reads the mean of a channel's positions instead of all of them.

W: (H, N, D), Q times as many rows with Q quantiles   Cost: 2 N D H per channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.axes import label
from ..core.errors import UserError
from ..core.parts import Fraction, Positive, part
from ..core.seams import Field
from ..nn.dropout import Dropout


class HorizonHead(nn.Module):
    """weight (outputs, positions, width), bias (outputs,)."""

    def __init__(self, width: int, positions: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, positions, width))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "horizon", "patches", "width", role="head")
        label(self, "bias", "horizon", role="bias")

    def forward(self, h_BCND: Tensor) -> Tensor:
        """(B, C, N, D) -> (B, outputs, C) in fp32 at least."""
        y_BCH = h_BCND.flatten(2) @ self.weight.flatten(1).to(h_BCND.dtype).T
        wide = torch.promote_types(y_BCH.dtype, torch.float32)
        return (y_BCH.to(wide) + self.bias.to(wide)).transpose(1, 2)


@part
class Forecasting(nn.Module):
    """horizon: H, that of the data when not given. quantiles: those to forecast instead of the mean. pooling: what of a channel the
    head reads. dropout: on what it reads. causal: whether a patch may not look ahead."""

    reads = ("future",)
    couples_batch = False

    def __init__(
        self,
        width: int,
        embedding: Any,
        fields: Mapping[str, Field] | None = None,
        *,
        horizon: Positive[int] | None = None,
        quantiles: list[Fraction] | None = None,
        pooling: Literal["mean"] | None = None,
        dropout: Fraction = 0.0,
        causal: bool = False,
    ):
        super().__init__()
        known = (fields or {}).get("future")
        found = horizon or (known.shape[0] if known else None)
        if found is None:
            raise UserError("objective.horizon: the data gives no future; set data.train.horizon")
        if known is not None and known.shape[0] != found:
            raise UserError(
                f"objective.horizon: forecasts of {found} steps do not meet futures of {known.shape[0]}; set data.train.horizon to {found}"
            )
        self.horizon, self.quantiles, self.pooling, self.causal = found, quantiles, pooling, causal
        self.embedding, self.output_scale = embedding, 1.0
        C, N = embedding.size
        self.channels, self.positions = C, N
        self.head = HorizonHead(width, 1 if pooling else N, found * len(quantiles or [0.5]))
        self.dropout = Dropout(dropout)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        if knobs["quantiles"] is not None and (not knobs["quantiles"] or sorted(set(knobs["quantiles"])) != knobs["quantiles"]):
            yield f"quantiles want rising numbers between 0 and 1, got {knobs['quantiles']}"

    def settled(self) -> dict[str, int]:
        """What the data decided."""
        return {"horizon": self.horizon}

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds units: the observed values of the future."""
        if "future" not in batch:
            raise UserError("forecasting needs windows with a future; set data.train.horizon")
        there = batch.get("future_observed", torch.ones_like(batch["future"], dtype=torch.bool))
        return batch | {"units": (there & (batch["rows"] >= 0)[:, None, None]).flatten(1).sum(dim=1)}

    def forecasts(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """(B, Q, H, C) in the data's own units; Q is 1 where the mean is forecast."""
        h_BTD, context = model.encoded(batch, causal=self.causal)
        h_BCND = self.dropout(h_BTD, context).unflatten(1, (self.channels, self.positions))
        y_BHC = self.head((h_BCND.mean(dim=2, keepdim=True) if self.pooling else h_BCND) * self.output_scale)
        mean_B1C, std_B1C = self.embedding.scale(batch)
        return (y_BHC * std_B1C + mean_B1C).unflatten(1, (-1, self.horizon))

    def forecast(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """(B, H, C): the mean, or the quantile nearest to the median."""
        middle = min(range(len(self.quantiles)), key=lambda index: abs(self.quantiles[index] - 0.5)) if self.quantiles else 0  # type: ignore[index]
        return self.forecasts(model, batch)[:, middle]

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        y_BQHC = self.forecasts(model, batch)
        error_BQHC = batch["future"].to(y_BQHC.dtype)[:, None] - y_BQHC
        there = self._there(batch)[:, None]
        if self.quantiles is None:
            return {"squared_error": torch.where(there, error_BQHC**2, 0.0).flatten(1).sum(dim=1)}
        q = torch.tensor(self.quantiles, dtype=error_BQHC.dtype, device=error_BQHC.device)[:, None, None]
        loss = 2 * torch.maximum(q * error_BQHC, (q - 1) * error_BQHC)
        return {"quantile": torch.where(there, loss, 0.0).flatten(1).sum(dim=1) / len(self.quantiles)}

    def _there(self, batch: dict[str, Tensor]) -> Tensor:
        there = batch.get("future_observed", torch.ones_like(batch["future"], dtype=torch.bool))
        return there & (batch["rows"] >= 0)[:, None, None]

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per row, for evaluation: mean absolute and squared error of ``forecast`` over what was observed; share of the future below
        each quantile."""
        y_BQHC, there = self.forecasts(model, batch).double(), self._there(batch)
        middle = min(range(len(self.quantiles)), key=lambda index: abs(self.quantiles[index] - 0.5)) if self.quantiles else 0  # type: ignore[index]
        count = there.flatten(1).sum(dim=1).clamp(min=1)
        error = torch.where(there, y_BQHC[:, middle] - batch["future"], 0.0).flatten(1)
        found = {"mae": error.abs().sum(dim=1) / count, "mse": (error**2).sum(dim=1) / count}
        for index, q in enumerate(self.quantiles or []):
            found[f"below_{q:g}"] = (there & (batch["future"] < y_BQHC[:, index])).flatten(1).sum(dim=1) / count
        return found
