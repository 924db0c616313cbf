r"""Loss when data is repeated.   Muennighoff et al. 2023, arXiv:2305.16264, Eq. 5 and 6.

    L = E + A N'^-alpha + B D'^-beta
    D' = U (1 + R_D* (1 - exp(-R_D / R_D*)))          U: unique tokens,  R_D = D / U - 1: repetitions
    N' = U_N (1 + R_N* (1 - exp(-R_N / R_N*)))        U_N = min(N, N_opt(U)),  R_N = N / U_N - 1: excess parameters
    N_opt(U) = (alpha A U^beta / (beta B))^(1 / alpha): the size for which U tokens are compute-optimal

Published on C4: R_D* 15.39 (half-life of repetition; up to 4 epochs are nearly as good as new data), R_N* 5.31, alpha = beta 0.353.

Inputs: params N, tokens D (repetitions included), unique_tokens U.   Output: loss, nats per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, Form, amplitude, grid


@part
class DataConstrained(Form):
    inputs = ("params", "tokens", "unique_tokens")
    delta = 1e-3

    def __init__(self, table: Columns | None = None, *, excess_parameters: bool = True) -> None:
        """excess_parameters: whether parameters beyond N_opt(U) lose value too; without, N' = N. table is not needed."""
        self.excess = excess_parameters
        self.coefficients = (
            Coefficient("E", 1e-3, log=True),
            Coefficient("A", log=True),
            Coefficient("B", log=True),
            Coefficient("alpha", 0.05, 2.0),
            Coefficient("beta", 0.05, 2.0),
            Coefficient("R_D", 0.05, 1e4, log=True),
        ) + ((Coefficient("R_N", 0.05, 1e4, log=True),) if excess_parameters else ())

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        unique = np.minimum(np.asarray(table["unique_tokens"], float), table["tokens"])
        return {
            "log_params": np.log(table["params"]),
            "log_unique": np.log(unique),
            "repeats": np.asarray(table["tokens"], float) / unique - 1,
        }

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        E, A, B, alpha, beta, R_D = (theta_KP[:, index, None] for index in range(6))
        log_data_Kn = x["log_unique"] + np.log(1 + _worth(x["repeats"], np.exp(R_D)))
        log_size_Kn = x["log_params"] + 0 * E
        if self.excess:
            log_best_Kn = (np.log(alpha) + A - np.log(beta) - B + beta * x["log_unique"]) / alpha
            log_base_Kn = np.where(log_best_Kn.real < x["log_params"], log_best_Kn, x["log_params"])
            excess_Kn = np.exp(np.minimum(x["log_params"] - log_base_Kn, 50.0)) - 1
            log_size_Kn = log_base_Kn + np.log(1 + _worth(excess_Kn, np.exp(theta_KP[:, 6, None])))
        return np.log(np.exp(E) + np.exp(A - alpha * log_size_Kn) + np.exp(B - beta * log_data_Kn))

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        axes = ((0.3, 0.6, 0.85), (0.3, 0.7), (0.2, 0.35, 0.6), (0.2, 0.35, 0.6), (3.0, 15.0), (1.0, 5.0) if self.excess else (1.0,))
        share, split, alpha, beta, R_D, R_N = grid(*axes).T
        level = float(np.median(y_n))
        A = amplitude((1 - share) * split, level, alpha, x["log_params"])
        B = amplitude((1 - share) * (1 - split), level, beta, x["log_unique"])
        return np.stack([np.log(share) + level, A, B, alpha, beta, np.log(R_D)] + [np.log(R_N)] * self.excess, 1)


def _worth(repeats: Any, half_life: Any) -> Any:
    return half_life * (1 - np.exp(-repeats / half_life))
