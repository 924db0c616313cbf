r"""Loss along any learning-rate schedule.   Luo et al. 2025 (multi-power law), arXiv:2503.12811, Eq. 3 to 5.

    L(t) = L_0 + A (S_1(t) + S_W)^-alpha - B sum_{k <= t} (eta_{k-1} - eta_k) G(eta_k^-gamma S_k(t))
    G(x) = 1 - (1 + C x)^-beta          S_k(t) = sum_{k <= i <= t} eta_i          S_W: area of the warm-up

Published at 25 M, 100 M and 400 M parameters: L_0 3.04, 2.65, 2.38; alpha 0.51, 0.45, 0.43; beta near 0.59, gamma near 0.64, C near 2.1.

``fit: paper`` takes the coefficients where the paper's own fitting ends (``_early.py`` says how): AdamW stopped early, with no intervals.
Fitted to cosine_24000, constant_24000 and wsdcon_9 at 25 M / 100 M, R^2 of each schedule that was held out:

                     fit: optimum      fit: paper        logged by the authors
    constant_72000   0.9985  0.9992    0.9996  0.9980    0.9998  0.9980
    cosine_72000     0.9902  0.9906    0.9975  0.9972    0.9966  0.9970
    wsd              0.9998  0.9998    0.9995  0.9988    0.9992  0.9987
    wsdld            0.9998  0.9999    0.9996  0.9991    0.9994  0.9990
    wsdcon_18        0.9995  0.9996    0.9994  0.9995    0.9996  0.9999
    wsdcon_3         0.9979  0.9936    0.9981  0.9965    0.9983  0.9973

It is better on schedules unlike those fitted, though where it stops hangs on the very points: when these are weighed otherwise, every
schedule keeps 0.995 in 82 % / 86 % of cases (optimum: 1 % / 0 %). Later steps of the fitted schedules, held out, are told better by the
optimum.

Inputs: step, lr (and run where there are several).   Output: loss at every step.   Cost: rows times changes of the rate, for each run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, Form, grid
from ._curves import curves
from ._early import early


@part
class MultiPower(Form):
    inputs = ("step", "lr")
    delta = 1e-3
    curve = True
    coefficients = (
        Coefficient("L_0", 1e-3, log=True),
        Coefficient("A", log=True),
        Coefficient("alpha", 0.02, 3.0),
        Coefficient("B", 1e-9, 1e12, log=True),
        Coefficient("C", 1e-9, 1e9, log=True),
        Coefficient("beta", 0.02, 5.0),
        Coefficient("gamma", 0.0, 2.0),
    )

    def __init__(self, table: Columns | None = None, *, warmup: int | None = None, fit: Literal["optimum", "paper"] = "optimum") -> None:
        """warmup: steps of linear warm-up; None: it ended at the first row. fit: the lowest objective, or where the paper's way ends. table
        is not needed."""
        self.warmup, self.by_paper = warmup, fit == "paper"

    def prepare(self, table: Columns) -> dict[str, Any]:
        log_sum, runs = np.zeros(len(np.asarray(table["step"]))), []
        for curve in curves(table, self.warmup):
            drop_k, lr_k, sum_k, _ = curve.drops()
            log_sum[curve.rows] = np.log(curve.sum_m)
            drop_k, lr_k, sum_k = (np.concatenate(pair) for pair in zip(curve.rises(), (drop_k, lr_k, sum_k)))
            if len(drop_k):
                runs.append((curve.rows, drop_k, np.log(lr_k), np.maximum(curve.sum_m[:, None] - sum_k, 0.0)))
        return {"log_sum": log_sum, "runs": runs, "lr": np.asarray(table["lr"], float), "peak": float(np.max(table["lr"]))}

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        return self.gradient(theta_KP, x)[0]

    def gradient(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        L_0, A, alpha, B, C, beta, gamma = (theta_KP[:, index, None] for index in range(7))
        floor_Kn, power_Kn = np.exp(L_0) + 0 * x["log_sum"], np.exp(A - alpha * x["log_sum"])
        slope_KPn = np.zeros((len(theta_KP), 7, len(x["log_sum"])))
        slope_KPn[:, 0], slope_KPn[:, 1], slope_KPn[:, 2] = floor_Kn, power_Kn, -power_Kn * x["log_sum"]
        for row in range(len(theta_KP)):
            scale, c, b, g = np.exp(B[row, 0]), np.exp(C[row, 0]), beta[row, 0], gamma[row, 0]
            for rows, drop_k, log_lr_k, S_mk in x["runs"]:
                u_mk = c * np.exp(-g * log_lr_k) * S_mk
                log_v_mk = np.log1p(u_mk)
                left_mk = np.exp(-b * log_v_mk)
                bend_mk = b * left_mk * u_mk / (1 + u_mk)
                slope_KPn[row, 3, rows] = -scale * ((1 - left_mk) @ drop_k)
                slope_KPn[row, 4, rows] = -scale * (bend_mk @ drop_k)
                slope_KPn[row, 5, rows] = -scale * ((left_mk * log_v_mk) @ drop_k)
                slope_KPn[row, 6, rows] = scale * (bend_mk @ (drop_k * log_lr_k))
        loss_Kn = floor_Kn + power_Kn + slope_KPn[:, 3]
        return np.log(loss_Kn), slope_KPn / loss_Kn[:, None]

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        share, alpha, gain, rate, beta, gamma = grid((0.75, 0.92), (0.4, 0.7), (0.04, 0.1), (0.02, 0.15), (0.4, 0.8), (0.35, 0.65)).T
        lowest, late, peak = float(y_n.min()), float(np.quantile(x["log_sum"], 0.8)), np.log(x["peak"])
        A = np.log(1 - share) + lowest + alpha * late
        return np.stack([np.log(share) + lowest, A, alpha, np.log(gain) + lowest - peak, np.log(rate) - (1 - gamma) * peak, beta, gamma], 1)

    def own(self, x: Mapping[str, Any], y_n: np.ndarray, w_n: np.ndarray, delta: float) -> np.ndarray:
        return early(self, x, y_n, w_n, delta)

    def scale(self, table: Columns) -> np.ndarray | None:
        return np.asarray(table["step"], float)
