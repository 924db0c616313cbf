r"""Loss from model size and data without a floor.   Kaplan et al. 2020, arXiv:2001.08361, Eq. 1.5.

    L(N, D) = [ (N_c / N)^(alpha_N / alpha_D) + D_c / D ]^alpha_D

Published on WebText2: alpha_N 0.076, alpha_D 0.103, N_c 6.4e13 (parameters without embeddings), D_c 1.8e13.

Inputs: params N, tokens D.   Output: loss, nats per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, Form, grid


@part
class Kaplan(Form):
    inputs = ("params", "tokens")
    coefficients = (
        Coefficient("N_c", log=True),
        Coefficient("D_c", log=True),
        Coefficient("alpha_N", 0.003, 1.5),
        Coefficient("alpha_D", 0.003, 1.5),
    )

    def __init__(self, table: Columns | None = None) -> None:
        """table is not needed."""

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        return {"log_params": np.log(table["params"]), "log_tokens": np.log(table["tokens"])}

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        N_c, D_c, alpha_N, alpha_D = (theta_KP[:, index, None] for index in range(4))
        size_Kn, data_Kn = alpha_N / alpha_D * (N_c - x["log_params"]), D_c - x["log_tokens"]
        top_Kn = np.where(size_Kn.real > data_Kn.real, size_Kn, data_Kn)
        return alpha_D * (top_Kn + np.log(np.exp(size_Kn - top_Kn) + np.exp(data_Kn - top_Kn)))

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        share, alpha_N, alpha_D = grid((0.2, 0.5, 0.8), (0.04, 0.08, 0.15, 0.3, 0.6), (0.04, 0.08, 0.15, 0.3, 0.6)).T
        level = float(np.median(y_n))
        N_c = np.mean(x["log_params"]) + (level + alpha_D * np.log(share)) / alpha_N
        D_c = np.mean(x["log_tokens"]) + level / alpha_D + np.log(1 - share)
        return np.stack([N_c, D_c, alpha_N, alpha_D], 1)
