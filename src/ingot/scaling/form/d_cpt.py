r"""Loss of continued pre-training on a domain.   Que et al. 2024 (D-CPT law), arXiv:2406.01375, Eq. 6.

    L(N, D, r) = E + A N^-alpha + B r^eta D^-beta + C (r + epsilon)^-gamma          r: share of the domain's data

Loss on the domain falls with r; for the loss on general data take r as the share of general data.

Inputs: params N, tokens D, share r.   Output: loss, nats per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, Form, amplitude, grid


@part
class DomainContinual(Form):
    inputs = ("params", "tokens", "share")
    coefficients = (
        Coefficient("E", 1e-3, log=True),
        Coefficient("A", log=True),
        Coefficient("B", log=True),
        Coefficient("C", log=True),
        Coefficient("alpha", 0.02, 2.0),
        Coefficient("beta", 0.02, 2.0),
        Coefficient("gamma", 0.02, 3.0),
        Coefficient("eta", -2.0, 3.0),
        Coefficient("epsilon", 1e-3, 2.0, log=True),
    )

    def __init__(self, table: Columns | None = None) -> None:
        """table is not needed."""

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        share = np.asarray(table["share"], float)
        return {
            "log_params": np.log(table["params"]),
            "log_tokens": np.log(table["tokens"]),
            "share": share,
            "log_share": np.log(np.maximum(share, 1e-4)),
        }

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        E, A, B, C, alpha, beta, gamma, eta, epsilon = (theta_KP[:, index, None] for index in range(9))
        size_Kn = np.exp(A - alpha * x["log_params"])
        data_Kn = np.exp(B + eta * x["log_share"] - beta * x["log_tokens"])
        domain_Kn = np.exp(C - gamma * np.log(x["share"] + np.exp(epsilon)))
        return np.log(np.exp(E) + size_Kn + data_Kn + domain_Kn)

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        share, alpha, beta, gamma, eta, epsilon = grid((0.3, 0.6, 0.8), (0.2, 0.5), (0.2, 0.5), (0.2, 0.6, 1.2), (0.1, 0.6), (0.03, 0.2)).T
        level, rest = float(np.median(y_n)), (1 - share) / 3
        A = amplitude(rest, level, alpha, x["log_params"])
        B = amplitude(rest, level, beta, x["log_tokens"]) - eta * float(np.mean(x["log_share"]))
        C = amplitude(rest, level, gamma, np.log(x["share"] + 0.1))
        return np.stack([np.log(share) + level, A, B, C, alpha, beta, gamma, eta, np.log(epsilon)], 1)
