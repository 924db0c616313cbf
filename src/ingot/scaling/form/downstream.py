r"""Accuracy on a task from loss: the second step of two.   Dubey et al. 2024, arXiv:2407.21783, Sec. 3.2.1; Bhagia et al. 2024, arXiv:2412.04403, Eq. 3.

    accuracy(L) = floor + (ceiling - floor) / (1 + exp(k (L - L_0)))

The first step, loss from compute, is another law (`chinchilla`, `over_training`). floor is often known (chance): fixed={"floor": 0.25}.

Inputs: loss.   Output: accuracy in 0 to 1; residuals on its own scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, Form, grid


@part
class Downstream(Form):
    inputs = ("loss",)
    output = "accuracy"
    residual = "linear"
    span = (0.0, 1.0)
    coefficients = (
        Coefficient("floor", 0.0, 1.0),
        Coefficient("ceiling", 0.0, 1.0),
        Coefficient("k", 0.01, 500, log=True),
        Coefficient("L_0", -20, 50),
    )

    def __init__(self, table: Columns | None = None) -> None:
        """table is not needed."""

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        floor, ceiling, k, L_0 = (theta_KP[:, index, None] for index in range(4))
        z_Kn = np.exp(k) * (x["loss"] - L_0)
        return floor + (ceiling - floor) / (1 + np.exp(np.minimum(z_Kn, 300.0)))

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        low, high, width = float(y_n.min()), float(y_n.max()), max(float(np.ptp(x["loss"])), 1e-3)
        below, above, k, at = grid((0.0, 0.05), (0.0, 0.2), (1.0, 3.0, 8.0, 20.0), np.quantile(x["loss"], (0.0, 0.2, 0.5, 0.8))).T
        return np.stack([np.maximum(low - below, 0), np.minimum(high + above, 1), np.log(k / width), at], 1)

    def scale(self, table: Columns) -> np.ndarray | None:
        """exp(-loss): the law reaches along the loss it reads, whatever compute that took."""
        return np.exp(-np.asarray(table["loss"], float))
