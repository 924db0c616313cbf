"""How Luo et al. 2025 (arXiv:2503.12811) fit the multi-power law: a simpler law first, then AdamW for at most 200 steps.

Constants are those of the code that they publish. They stop far from the lowest objective, and near where they began: C = 1, beta = gamma =
1/2, and B as the simpler law has it; the curves that are fitted leave a valley there, whose bottom is a worse guide to other schedules.

1. L = L_0 + A S_1^-alpha - B (peak - eta): L-BFGS-B from 45 places, around a straight line through log(L - min L + 0.01) over log S_1.
2. AdamW (betas 0.9 and 0.999, weight decay 0.01) in natural units, steps of 0.05 for L_0, A, B, C and 0.005 for alpha, beta, gamma, until
20
   steps bring no better objective, or its gradient is below 1e-5.

Their numbers are in units of a peak learning rate of 3e-4, to which rates are brought, and from which the coefficients are brought back.

DEPARTS: of the steps, that with the lowest objective is kept (their code keeps the coefficients one step after it); the gradient of the
simpler law is exact (theirs are differences).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import optimize

from ._base import Form, grid

PEAK = 3e-4
STEPS, PATIENCE, SETTLED = 200, 20, 1e-5
RATE, DECAY = np.array([0.05, 0.05, 0.005, 0.05, 0.05, 0.005, 0.005]), 0.01
BEGIN = (1.0, 0.5, 0.5)
"""C, beta, gamma."""


def early(form: Form, x: Mapping[str, Any], y_n: np.ndarray, w_n: np.ndarray, delta: float) -> np.ndarray:
    """(7,) L_0, A, alpha, B, C, beta, gamma on the fitting scale. x: as MultiPower.prepare has it; rows of weight zero do not count."""
    k = PEAK / x["peak"]
    log_k = np.log(k)
    runs = [(rows, drop_k * k, log_lr_k + log_k, S_mk * k) for rows, drop_k, log_lr_k, S_mk in x["runs"]]
    x = {"log_sum": x["log_sum"] + log_k, "lr": x["lr"] * k, "runs": runs, "peak": PEAK}
    L_0, A, alpha, B, C, beta, gamma = _adamw(form, x, y_n, w_n, delta, np.array([*_simpler(x, y_n, w_n, delta), *BEGIN]))
    natural = (L_0, A * k**-alpha, alpha, B * k, C * k ** (1 - gamma), beta, gamma)
    return form.theta(dict(zip((one.name for one in form.coefficients), natural)))


def _simpler(x: Mapping[str, Any], y_n: np.ndarray, w_n: np.ndarray, delta: float) -> np.ndarray:
    """(4,) L_0, A, alpha, B."""
    use = w_n > 0
    y_m, w_m, log_sum_m, below_m = y_n[use], w_n[use], x["log_sum"][use], PEAK - x["lr"][use]
    lowest = float(np.exp(y_m.min()))
    slope, level = np.polyfit(log_sum_m, np.log(np.exp(y_m) - lowest + 0.01), 1)

    def objective(p: np.ndarray) -> tuple[float, np.ndarray]:
        power_m = np.exp(np.minimum(-p[2] * log_sum_m, 300.0))
        loss_m = np.maximum(p[0] + p[1] * power_m - p[3] * below_m, 1e-10)
        r_m = y_m - np.log(loss_m)
        push_m = -w_m * np.clip(r_m, -delta, delta) / loss_m
        slopes = np.stack([np.ones_like(power_m), power_m, -p[1] * power_m * log_sum_m, -below_m])
        return _objective(r_m, w_m, delta), slopes @ push_m

    near = np.array([-0.1, 0.0, 0.1])
    floors = lowest + np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    places = grid(floors.tolist(), (np.exp(level) + near).tolist(), (near - slope).tolist(), (100.0, 550.0, 1000.0))
    options = {"maxiter": 100_000, "ftol": 1e-9, "gtol": 1e-6}
    found = [
        optimize.minimize(objective, place, jac=True, method="L-BFGS-B", bounds=[(0, None)] * 4, options=options)
        for place in np.maximum(places, 0.0)
    ]
    return np.asarray(min(found, key=lambda one: one.fun).x)


def _adamw(form: Form, x: Mapping[str, Any], y_n: np.ndarray, w_n: np.ndarray, delta: float, p: np.ndarray) -> np.ndarray:
    """(7,) natural units; p: where to begin."""
    logs = np.array([one.log for one in form.coefficients])
    low, high = np.array([(max(one.low, 1e-9), one.high) for one in form.coefficients]).T
    first, second = np.zeros(len(p)), np.zeros(len(p))
    best, kept, since = np.inf, p, 0
    p = np.clip(p, low, high)
    for step in range(1, STEPS + 1):
        f_Kn, gradient_KPn = form.gradient(np.where(logs, np.log(p), p)[None], x)
        r_n = y_n - f_Kn[0]
        value = _objective(r_n, w_n, delta)
        slope = -(gradient_KPn[0] / np.where(logs, p, 1.0)[:, None]) @ (w_n * np.clip(r_n, -delta, delta))
        best, kept, since = (value, p, 0) if value < best else (best, kept, since + 1)
        if (step > PATIENCE + 1 and since >= PATIENCE) or np.linalg.norm(slope) < SETTLED:
            break
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        move = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        p = np.clip(p * (1 - DECAY * RATE) - RATE * move, low, high)
    return kept


def _objective(r_n: np.ndarray, w_n: np.ndarray, delta: float) -> float:
    size_n = np.minimum(np.abs(r_n), delta)
    return float((w_n * size_n * (np.abs(r_n) - 0.5 * size_n)).sum())
