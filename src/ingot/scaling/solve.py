r"""Robust nonlinear least squares, many problems at once.

    minimize over theta   sum_i w_i rho(y_i - f(theta, x_i)) + 1/2 sum_p ((theta_p - m_p) / s_p)^2        within bounds
    rho(r) = r^2 / 2 for |r| <= delta, else delta (|r| - delta / 2)                                       (Huber 1964)

Damped Gauss-Newton: the curvature of a residual beyond delta lies between 0 (the true second derivative) and delta / |r| (the
majorizer, with which every step descends); each problem moves between the two by whether its last step helped. K problems differ in
start, y and w; the ones that have converged leave the batch.

Shapes: K problems, P coefficients, n observations.   Cost: linear in K.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .form._base import Form

CHUNK = 400_000
"""Numbers in a block of derivatives: a few megabytes, so that a block stays in the cache."""


@dataclass
class Problem:
    """One law and one data set. y_n on the residual scale; delta: one number, or (K, 1).

    free_P: which coefficients move; prior: (m, s), s (P,) infinite where there is none, m (P,) or, one for each start, (K, P).
    """

    form: Form
    x: Mapping[str, Any]
    y_n: np.ndarray
    delta: Any
    w_n: np.ndarray | None = None
    free_P: np.ndarray | None = None
    prior: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def free(self) -> np.ndarray:
        return np.ones(len(self.form.coefficients), bool) if self.free_P is None else self.free_P


@dataclass
class Solution:
    """theta_KP, objective_K, converged_K."""

    theta_KP: np.ndarray
    objective_K: np.ndarray
    converged_K: np.ndarray


def huber(r: np.ndarray, delta: Any) -> np.ndarray:
    """rho(r), elementwise."""
    size = np.minimum(np.abs(r), delta)
    return size * (np.abs(r) - 0.5 * size)


def solve(
    problem: Problem,
    start_KP: np.ndarray,
    *,
    y_Kn: np.ndarray | None = None,
    w_Kn: np.ndarray | None = None,
    free_KP: np.ndarray | None = None,
    steps: int = 200,
    tolerance: float = 1e-9,
) -> Solution:
    """Minimize from every start. y_Kn, w_Kn, free_KP replace the problem's own, one row for each start.

    tolerance: relative decrease of the objective, twice in a row, at which a problem counts as converged.
    """
    K, P = start_KP.shape
    block = max(1, CHUNK // max(1, len(problem.y_n) * (P + 2)))
    parts = []
    for at in range(0, K, block):
        rows = slice(at, at + block)
        size = min(block, K - at)
        parts.append(
            _Block(
                problem,
                start_KP[rows].astype(float),
                np.broadcast_to(problem.y_n if y_Kn is None else y_Kn[rows], (size, len(problem.y_n))),
                _weights(problem, w_Kn, rows, size),
                np.broadcast_to(problem.free if free_KP is None else free_KP[rows], (size, P)),
                np.broadcast_to(problem.delta if np.ndim(problem.delta) == 0 else problem.delta[rows], (size, 1)),
                None
                if problem.prior is None
                else (problem.prior[0] if problem.prior[0].ndim == 1 else problem.prior[0][rows], problem.prior[1]),
            ).run(steps, tolerance)
        )
    return Solution(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("theta_KP", "objective_K", "converged_K")))


def _weights(problem: Problem, w_Kn: np.ndarray | None, rows: slice, size: int) -> np.ndarray:
    w = w_Kn[rows] if w_Kn is not None else np.ones(len(problem.y_n)) if problem.w_n is None else problem.w_n
    return np.broadcast_to(w, (size, len(problem.y_n)))


class _Block:
    """A block of problems small enough for the cache, iterated together."""

    def __init__(
        self,
        problem: Problem,
        theta_KP: np.ndarray,
        y_Kn: np.ndarray,
        w_Kn: np.ndarray,
        free_KP: np.ndarray,
        delta_K1: np.ndarray,
        prior: tuple[np.ndarray, np.ndarray] | None,
    ):
        self.form, self.x, self.delta_K1, self.prior = problem.form, problem.x, delta_K1, prior
        self.low_P, self.high_P = problem.form.bounds.T
        self.theta_KP = np.clip(theta_KP, self.low_P, self.high_P)
        self.y_Kn, self.w_Kn, self.free_KP = y_Kn, w_Kn, free_KP
        if prior is not None:
            self.prior = np.broadcast_to(prior[0], self.theta_KP.shape), prior[1]
        self.live = np.arange(len(theta_KP))
        self.objective_K = np.full(len(theta_KP), np.inf)
        self.converged_K = np.zeros(len(theta_KP), bool)
        self.softness_K = np.full(len(theta_KP), 1.0)
        self.damping_K = np.full(len(theta_KP), 1e-3)
        self.still_K = np.zeros(len(theta_KP), int)

    def run(self, steps: int, tolerance: float) -> Solution:
        with np.errstate(all="ignore"):
            f_Kn, gradient_KPn = self.form.gradient(self.theta_KP, self.x)
            self.objective_K = self._objective(self.theta_KP, f_Kn, self.live)
            self.live = self.live[np.isfinite(self.objective_K)]
            f_Kn, gradient_KPn = f_Kn[self.live], gradient_KPn[self.live]
            for _ in range(steps):
                if len(self.live) == 0:
                    break
                f_Kn, gradient_KPn = self._step(f_Kn, gradient_KPn, tolerance)
        return Solution(self.theta_KP, self.objective_K, self.converged_K)

    def _objective(self, theta_KP: np.ndarray, f_Kn: np.ndarray, live: np.ndarray) -> np.ndarray:
        total_K = np.einsum("kn,kn->k", self.w_Kn[live], huber(self.y_Kn[live] - f_Kn, self.delta_K1[live]))
        if self.prior is not None:
            total_K = total_K + 0.5 * (((theta_KP - self.prior[0][live]) / self.prior[1]) ** 2).sum(1)
        return np.where(np.isfinite(total_K), total_K, np.inf)

    def _step(self, f_Kn: np.ndarray, gradient_KPn: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        live = self.live
        y_Kn, w_Kn, old_KP, old_K = self.y_Kn[live], self.w_Kn[live], self.theta_KP[live], self.objective_K[live]
        new_KP = np.clip(old_KP + self._direction(f_Kn, gradient_KPn, y_Kn, w_Kn, old_KP, live), self.low_P, self.high_P)
        new_f_Kn, new_gradient_KPn = self.form.gradient(new_KP, self.x)
        new_K = self._objective(new_KP, new_f_Kn, live)
        better_K = (new_K <= old_K) & np.isfinite(new_gradient_KPn).all((1, 2))
        decrease_K = np.where(better_K, (old_K - new_K) / np.maximum(old_K, 1e-300), 0.0)
        self.theta_KP[live] = np.where(better_K[:, None], new_KP, old_KP)
        self.objective_K[live] = np.where(better_K, new_K, old_K)
        self.softness_K[live] = np.where(better_K, self.softness_K[live] * 0.4, np.minimum(self.softness_K[live] * 4, 1.0)).clip(0.03, 1.0)
        self.damping_K[live] = (self.damping_K[live] * np.where(better_K, 0.2, 8.0)).clip(1e-12, 1e12)
        flat_K = better_K & (decrease_K < tolerance)
        self.still_K[live] = np.where(flat_K, self.still_K[live] + 1, 0)
        done_K = (self.still_K[live] >= 2) | (self.damping_K[live] > 1e10) | (new_K == 0)
        self.converged_K[live] |= done_K
        keep = ~done_K
        f_Kn = np.where(better_K[:, None], new_f_Kn, f_Kn)[keep]
        gradient_KPn = np.where(better_K[:, None, None], new_gradient_KPn, gradient_KPn)[keep]
        self.live = live[keep]
        return f_Kn, gradient_KPn

    def _direction(
        self, f_Kn: np.ndarray, gradient_KPn: np.ndarray, y_Kn: np.ndarray, w_Kn: np.ndarray, theta_KP: np.ndarray, live: np.ndarray
    ) -> np.ndarray:
        """Solve the damped normal equations over the coefficients that are free and not pushed against a bound."""
        r_Kn = y_Kn - f_Kn
        beyond_Kn = np.minimum(1.0, self.delta_K1[live] / np.maximum(np.abs(r_Kn), 1e-300))
        slope_KP = np.matmul(gradient_KPn, (w_Kn * beyond_Kn * r_Kn)[..., None])[..., 0]
        curvature_Kn = w_Kn * np.where(beyond_Kn < 1, beyond_Kn * self.softness_K[live, None], 1.0)
        H_KPP = np.matmul(gradient_KPn * curvature_Kn[:, None], gradient_KPn.swapaxes(1, 2))
        if self.prior is not None:
            slope_KP = slope_KP - (theta_KP - self.prior[0][live]) / self.prior[1] ** 2
            H_KPP[:, range(H_KPP.shape[1]), range(H_KPP.shape[1])] += 1 / self.prior[1] ** 2
        stuck_KP = ((theta_KP <= self.low_P) & (slope_KP < 0)) | ((theta_KP >= self.high_P) & (slope_KP > 0))
        move_KP = self.free_KP[live] & ~stuck_KP
        H_KPP = H_KPP * (move_KP[:, :, None] & move_KP[:, None, :])
        scale_KP = np.sqrt(np.einsum("kpp->kp", H_KPP))
        scale_KP = np.where(scale_KP > 0, scale_KP, 1.0)
        H_KPP = H_KPP / (scale_KP[:, :, None] * scale_KP[:, None, :])
        diagonal = np.arange(H_KPP.shape[1])
        H_KPP[:, diagonal, diagonal] = np.where(move_KP, H_KPP[:, diagonal, diagonal] + self.damping_K[live, None], 1.0)
        slope_KP = np.where(move_KP, slope_KP / scale_KP, 0.0)
        H_KPP = np.where(np.isfinite(H_KPP), H_KPP, np.eye(H_KPP.shape[1]))
        return np.linalg.solve(H_KPP + 1e-14 * np.eye(H_KPP.shape[1]), np.nan_to_num(slope_KP)[..., None])[..., 0] / scale_KP


def from_all_starts(
    problem: Problem, *, y_Kn: np.ndarray | None = None, w_Kn: np.ndarray | None = None, keep: int = 8, start_SP: np.ndarray | None = None
) -> Solution:
    """The best of many starts for each of K data sets (one, when y_Kn and w_Kn are left out).

    All starts take a few steps; the `keep` best go on to the end. start_SP: instead of the form's own.
    A form that is fitted as its paper does ends where that ends.
    """
    K = len(y_Kn) if y_Kn is not None else len(w_Kn) if w_Kn is not None else 1
    if problem.form.by_paper:
        return _by_paper(problem, K, y_Kn, w_Kn)
    starts_SP = problem.form.starts(problem.x, problem.y_n) if start_SP is None else start_SP
    if problem.free_P is not None and problem.prior is not None:
        starts_SP = np.where(problem.free_P, starts_SP, problem.prior[0])
    best = []
    for row in range(K):
        own: dict[str, Any] = {
            name: np.broadcast_to(array[row], (len(starts_SP), array.shape[1]))
            for name, array in (("y_Kn", y_Kn), ("w_Kn", w_Kn))
            if array is not None
        }
        rough = solve(problem, starts_SP, steps=8, **own)
        order = np.argsort(rough.objective_K)[:keep]
        fine = solve(problem, rough.theta_KP[order], **{name: array[order] for name, array in own.items()}, steps=600, tolerance=1e-11)
        pick = int(np.argmin(fine.objective_K))
        best.append((fine.theta_KP[pick], fine.objective_K[pick], fine.converged_K[pick]))
    return Solution(*(np.array(column) for column in zip(*best)))


def _by_paper(problem: Problem, K: int, y_Kn: np.ndarray | None, w_Kn: np.ndarray | None) -> Solution:
    form, n = problem.form, len(problem.y_n)
    own_w_n = np.ones(n) if problem.w_n is None else problem.w_n
    y_Kn, w_Kn = (np.broadcast_to(own, (K, n)) if given is None else given for own, given in ((problem.y_n, y_Kn), (own_w_n, w_Kn)))
    delta_K = np.broadcast_to(np.asarray(problem.delta, float).reshape(-1), K)
    theta_KP = np.array([form.own(problem.x, y_n, w_n, float(delta)) for y_n, w_n, delta in zip(y_Kn, w_Kn, delta_K)])
    objective_K = (w_Kn * huber(y_Kn - form.predict(theta_KP, problem.x), delta_K[:, None])).sum(1)
    return Solution(theta_KP, objective_K, np.ones(K, bool))
