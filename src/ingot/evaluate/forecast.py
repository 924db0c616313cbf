r"""Errors of forecasts over all held-out windows, as the field reports them: in the units of the data, standardized where it is.

    mse = mean over windows, steps, channels of (y - future)^2        mae = mean of |y - future|

Beside them those of repeating the last value and of the look-back's mean, which a forecast should beat. Only observed values count.
Zhou et al. 2020 (Informer, ETT), arXiv:2012.07436, section 5.   Cost: one forward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.evaluating import evaluating
from ..core.parts import part

if TYPE_CHECKING:
    from ..core.seams import Layout


@part
class Forecast:
    """Nothing to set; ``evaluate.rows`` says how many windows."""

    reads = ("series", "future")

    def __init__(self, layout: Layout):
        self.layout = layout

    def __call__(self, model: nn.Module, *, windows: Iterable[list[dict[str, Tensor]]], objective: Any) -> dict[str, float]:
        """mse, mae, and each of repeating the last value (``repeat_``) and the mean (``mean_``); windows."""
        if not hasattr(objective, "forecast"):
            raise UserError(f"evaluate: forecast wants an objective that forecasts, which {type(objective).__name__} does not")
        sums = torch.zeros(8, dtype=torch.float64)
        with evaluating(model):
            for window in windows:
                for micro in window:
                    sums += self._sums(model(micro, ask="forecast"), micro)
        total = self.layout.total(sums).tolist()
        names = ("mse", "mae", "repeat_mse", "repeat_mae", "mean_mse", "mean_mae")
        return {name: value / max(1.0, total[6]) for name, value in zip(names, total, strict=False)} | {"windows": total[7]}

    @staticmethod
    def _sums(y_BHC: Tensor, micro: dict[str, Tensor]) -> Tensor:
        """Squared and absolute errors of the three forecasts, values, windows."""
        real, future, series = micro["rows"] >= 0, micro["future"].double(), micro["series"].double()
        there = micro.get("future_observed", torch.ones_like(micro["future"], dtype=torch.bool)) & real[:, None, None]
        seen = micro.get("observed", torch.ones_like(micro["series"], dtype=torch.bool))
        place = torch.arange(series.shape[1], device=series.device)[:, None]
        last = series.gather(1, (place * seen).amax(dim=1, keepdim=True))
        mean = (series * seen).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp(min=1)
        errors = [torch.where(there, guess - future, 0.0) for guess in (y_BHC.double(), last, mean)]
        values = [value for error in errors for value in ((error**2).sum(), error.abs().sum())]
        return torch.stack([*values, there.sum().double(), real.sum().double()]).cpu()
