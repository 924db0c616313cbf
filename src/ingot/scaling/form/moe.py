r"""Loss of routed models from size and experts.   Clark et al. 2022, arXiv:2202.01169, Eq. 9.

    log L(N, E) = a log N + b log E_hat + c log N log E_hat + d
    1 / E_hat = 1 / (E - 1 + 1 / (1 / E_start - 1 / E_max)) + 1 / E_max

c > 0: routing helps large models less. Published (sinkhorn-routed, base-10 logarithms): a -0.082, b -0.108, c 0.009, d 1.104, E_start
1.847, E_max 314.478. Here logarithms are natural, and N counts millions, which keeps a and b apart.

Inputs: params N (of the dense model: those active per token), experts E.   Output: loss, nats per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, Form, grid
from ._experts import saturated


@part
class Routed(Form):
    inputs = ("params", "experts")
    coefficients = (
        Coefficient("a", -1, 0.5),
        Coefficient("b", -2, 1),
        Coefficient("c", -0.5, 0.5),
        Coefficient("d", -5, 10),
        Coefficient("E_start", 1.001, 30.0, log=True),
        Coefficient("E_max", 31.0, 1e5, log=True),
    )

    def __init__(self, table: Columns | None = None) -> None:
        """table is not needed."""

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        return {"log_params": np.log(np.asarray(table["params"], float) / 1e6), "experts": np.asarray(table["experts"], float)}

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        a, b, c, d, start, most = (theta_KP[:, index, None] for index in range(6))
        log_E_Kn = np.log(saturated(x["experts"], np.exp(start), np.exp(most)))
        return a * x["log_params"] + b * log_E_Kn + c * x["log_params"] * log_E_Kn + d

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        found = []
        for start, most in grid((1.2, 2.0, 4.0), (60.0, 300.0, 2000.0)):
            log_E = np.log(saturated(x["experts"], start, most))
            design = np.stack([x["log_params"], log_E, x["log_params"] * log_E, np.ones(len(y_n))], 1)
            found.append([*np.linalg.lstsq(design, y_n, rcond=None)[0], np.log(start), np.log(most)])
        return np.array(found)

    def scale(self, table: Columns) -> np.ndarray | None:
        return np.asarray(table["params"], float)
