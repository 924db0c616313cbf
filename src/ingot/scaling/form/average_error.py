r"""Average error over tasks from loss.   Gadre et al. 2024, arXiv:2403.08540, Eq. 5.

    error(L) = epsilon - k exp(-gamma L)

Inputs: loss.   Output: error in 0 to 1; residuals on its own scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, Form, grid


@part
class AverageError(Form):
    inputs = ("loss",)
    output = "error"
    residual = "linear"
    span = (0.0, 1.0)
    coefficients = (Coefficient("epsilon", 0.0, 1.5), Coefficient("k", 1e-4, 1e6, log=True), Coefficient("gamma", 0.01, 20.0, log=True))

    def __init__(self, table: Columns | None = None) -> None:
        """table is not needed."""

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        epsilon, k, gamma = (theta_KP[:, index, None] for index in range(3))
        return epsilon - np.exp(k - np.exp(gamma) * x["loss"])

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        found = []
        for gap, gamma in grid((0.01, 0.05, 0.2), (0.2, 0.6, 1.5, 4.0)):
            epsilon = min(float(y_n.max()) + gap, 1.4)
            found.append([epsilon, float(np.mean(np.log(epsilon - y_n) + gamma * x["loss"])), np.log(gamma)])
        return np.array(found)

    def scale(self, table: Columns) -> np.ndarray | None:
        """exp(-loss): the law reaches along the loss it reads, whatever compute that took."""
        return np.exp(-np.asarray(table["loss"], float))
