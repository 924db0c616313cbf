r"""One loss from another: another data set, another domain.   Brandfonbrener et al. 2024, arXiv:2411.12925, Eq. 3.

    L = K (L_source - E_source)^kappa + E

Models are paired by training compute (train to train) or are the same model (train to test). The paper takes both floors from scaling laws
of their own: pass them as fixed={"E_source": ..., "E": ...}; left free, they are estimated from the pairs alone, which needs a wide range.

Inputs: source_loss.   Output: loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, Form, grid


@part
class LossToLoss(Form):
    inputs = ("source_loss",)

    def __init__(self, table: Columns | None = None) -> None:
        """table: bounds the source's floor to nine tenths of its smallest loss, so that the law still speaks a little beyond it."""
        lowest = float(np.min(table["source_loss"])) if table is not None else 1e3
        self.coefficients = (
            Coefficient("K", 1e-4, log=True),
            Coefficient("kappa", 0.05, 6.0),
            Coefficient("E_source", 0.0, 0.9 * lowest),
            Coefficient("E", 0.0, 1e3),
        )

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        K, kappa, E_source, E = (theta_KP[:, index, None] for index in range(4))
        above_Kn = x["source_loss"] - E_source
        above_Kn = np.where(above_Kn.real > 1e-9, above_Kn, 1e-9)
        return np.log(np.exp(K + kappa * np.log(above_Kn)) + E)

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        found, source, loss = [], x["source_loss"], np.exp(y_n)
        for E_source, E in grid((0.0, 0.2, 0.4, 0.6, 0.75, 0.88), (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)) * [source.min(), loss.min()]:
            kappa, K = np.polyfit(np.log(source - E_source), np.log(loss - E), 1)
            found.append([K, kappa, E_source, E])
        return np.array(found)

    def scale(self, table: Columns) -> np.ndarray | None:
        """exp(-source loss): the law reaches along the loss it reads, whatever compute that took."""
        return np.exp(-np.asarray(table["source_loss"], float))
