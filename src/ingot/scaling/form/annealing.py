r"""Loss along a learning-rate schedule, with annealing.   Tissue et al. 2024, arXiv:2408.11029, Eq. 1.

    L(t) = L_0 + A S_1^-alpha - C S_2
    S_1 = sum_{i <= t} eta_i          S_2 = sum_{i <= t} sum_{k <= i} (eta_{k-1} - eta_k) lambda^(i - k)

S_1 is the area under the schedule, S_2 the area of what the rate has come down, with a memory of about 1 / (1 - lambda) steps.

Inputs: step, lr (and run where there are several).   Output: loss at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import Fraction, part
from ._base import Coefficient, Columns, Form, grid
from ._curves import curves


@part
class Annealing(Form):
    inputs = ("step", "lr")
    delta = 1e-3
    curve = True
    coefficients = (
        Coefficient("L_0", 1e-3, log=True),
        Coefficient("A", log=True),
        Coefficient("alpha", 0.02, 3.0),
        Coefficient("C", -1e9, 1e9),
    )

    def __init__(self, table: Columns | None = None, *, memory: Fraction = 0.999, warmup: int | None = None) -> None:
        """memory: lambda. warmup: steps of linear warm-up; None: it ended at the first row. table is not needed."""
        self.memory, self.warmup = memory, warmup

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        size = len(np.asarray(table["step"]))
        log_sum, annealed = np.zeros(size), np.zeros(size)
        for curve in curves(table, self.warmup):
            drop, _, _, at = curve.drops()
            since = np.maximum(curve.step_m[:, None] - at, 0.0)
            annealed[curve.rows] = ((1 - self.memory**since) / (1 - self.memory)) @ drop
            log_sum[curve.rows] = np.log(curve.sum_m)
        return {"log_sum": log_sum, "annealed": annealed}

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        L_0, A, alpha, C = (theta_KP[:, index, None] for index in range(4))
        return np.log(np.exp(L_0) + np.exp(A - alpha * x["log_sum"]) - C * x["annealed"])

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        reach = max(float(np.abs(x["annealed"]).max()), 1e-12)
        share, alpha, gain = grid((0.5, 0.7, 0.85, 0.95), (0.2, 0.4, 0.7, 1.2), (0.0, 0.02, 0.1)).T
        lowest, late = float(y_n.min()), float(np.quantile(x["log_sum"], 0.8))
        return np.stack([np.log(share) + lowest, np.log(1 - share) + lowest + alpha * late, alpha, gain * np.exp(lowest) / reach], 1)

    def scale(self, table: Columns) -> np.ndarray | None:
        return np.asarray(table["step"], float)
