r"""Steps to reach a loss at a batch size.   McCandlish et al. 2018, arXiv:1812.06162, Eq. 2.11; with the loss: Kaplan et al. 2020, Eq. 5.3.

    S(B) = S_min (1 + B_crit / B)                          examples B S = E_min + B S_min,  E_min = B_crit S_min
    with a column target_loss:  S_min = s L^-p,  B_crit = b L^-q        (Kaplan: B_crit 2e8 tokens / L^4.76)

At B = B_crit a run takes twice the fewest steps and twice the fewest examples.

Inputs: batch B (optionally target_loss L).   Output: steps S.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, Form, grid


@part
class CriticalBatch(Form):
    output = "steps"

    def __init__(self, table: Columns | None = None) -> None:
        """table: whether it has target_loss decides whether the law depends on the loss."""
        self.targets = table is not None and "target_loss" in table
        self.inputs = ("batch", "target_loss") if self.targets else ("batch",)
        self.coefficients = (Coefficient("S_min", log=True), Coefficient("B_crit", log=True))
        if self.targets:
            self.coefficients += (Coefficient("p", -5, 40), Coefficient("q", -5, 40))

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        return {"log_batch": np.log(table["batch"])} | ({"log_loss": np.log(table["target_loss"])} if self.targets else {})

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        S, B = theta_KP[:, 0, None], theta_KP[:, 1, None]
        if self.targets:
            S, B = S - theta_KP[:, 2, None] * x["log_loss"], B - theta_KP[:, 3, None] * x["log_loss"]
        return S + np.log(1 + np.exp(np.minimum(B - x["log_batch"], 300.0)))

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        batch, p, q = grid(np.quantile(x["log_batch"], (0, 0.25, 0.5, 0.75, 1)), (0.0, 5.0), (0.0, 5.0)).T
        loss = float(np.mean(x["log_loss"])) if self.targets else 0.0
        columns = [float(y_n.min()) - 0.1 + p * loss, batch + q * loss]
        return np.stack(columns + [p, q] * self.targets, 1)

    def scale(self, table: Columns) -> np.ndarray | None:
        return np.asarray(table["batch"], float)
