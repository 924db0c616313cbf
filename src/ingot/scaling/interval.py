r"""How uncertain the coefficients are: profile intervals, and bootstrap draws.

Profile (the default for coefficients): the bounds of theta_p are where the best objective with theta_p held there has risen to

    2 (Q_p(theta_p) - Q) / kappa = t^2(level, n - P)          kappa = [sum psi^2 / (n - P)] / mean psi'

the likelihood-ratio interval of an M-estimator (Huber & Ronchetti 2009, Sec. 7.6), with Student's quantile for an estimated scale. It
follows curved valleys, such as that between A and alpha, where symmetric intervals fail, and does not care how a coefficient is scaled.
psi' is smoothed over a kernel's width, since a small delta leaves few residuals to count. Residuals are never taken for smaller than
`EXACT`, to which measurements are rounded: a law that meets its points exactly would else seem to determine what it does not.

Bootstrap (for predictions): each draw weighs the observations by independent Exp(1) numbers (Rubin 1981), which, unlike resampled rows,
never leave a small design singular; draws start from the best fit; deviations are widened by sqrt(n / (n - P)). Points of a training
curve are weighed in blocks, since neighbors err together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from .solve import Problem, from_all_starts, huber, solve

EXACT = 1e-7  # of the logarithm of a measurement, or of the measurement itself: the digits of a single-precision number


def rounding(problem: Problem) -> float:
    """The smallest residual that means anything, on the residual scale."""
    return EXACT * (1.0 if problem.form.residual == "log" else max(float(np.abs(problem.y_n).max()), 1e-9))


def noise(problem: Problem, r_Kn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(kappa_K, curvature_K): see the module; curvature is mean psi'. Rows whose weight is zero do not count."""
    use = np.ones(r_Kn.shape[1], bool) if problem.w_n is None else problem.w_n > 0
    r_Kn, n, P = r_Kn[:, use], int(use.sum()), int(problem.free.sum())
    delta = problem.delta
    wider = np.sqrt(n / max(n - P, 1))
    s_K1 = np.maximum(np.median(np.abs(r_Kn), axis=1, keepdims=True) / 0.6745, 1e-12) * wider
    width_K1 = 0.9 * s_K1 * n**-0.2
    psi2_K = (np.clip(r_Kn, -delta, delta) ** 2).sum(1) / max(n - P, 1)
    inside_K = (stats.norm.cdf((delta - r_Kn) / width_K1) - stats.norm.cdf((-delta - r_Kn) / width_K1)).mean(1)
    # Huber's correction for fitted residuals (1981, Eq. 7.6.12) is 1 + (P / n) (1 - m) / m. It holds near m = 0.8 and explodes for small m,
    # where smoothing has widened the interval already: there half a coefficient's worth was right on 16 to 240 simulated points.
    small_K = 1 + P / n * (1 - inside_K) * np.maximum(1.5 * inside_K, 0.5)
    least_K = np.minimum(rounding(problem), np.reshape(delta, -1)) ** 2
    return np.maximum(small_K**2 * psi2_K / np.maximum(inside_K, 1e-6), least_K), inside_K


def profile(problem: Problem, theta_KP: np.ndarray, *, y_Kn: np.ndarray | None = None, level: float = 0.9, rounds: int = 12) -> np.ndarray:
    """(K, P, 2) bounds on the fitting scale, for K data sets; a side that never rises enough reports the coefficient's own bound.

    theta_KP: the best fits. Coefficients that are held fixed get their value twice.
    """
    K = len(theta_KP)
    y_Kn = np.broadcast_to(problem.y_n, (K, len(problem.y_n))) if y_Kn is None else y_Kn
    f_Kn, gradient_KPn = problem.form.gradient(theta_KP, problem.x)
    w_n = np.ones(y_Kn.shape[1]) if problem.w_n is None else problem.w_n
    kappa_K, inside_K = noise(problem, y_Kn - f_Kn)
    best_K = (w_n * huber(y_Kn - f_Kn, problem.delta)).sum(1) + _penalty(problem, theta_KP)
    quantile = float(stats.t.ppf(0.5 + level / 2, max(int((w_n > 0).sum()) - int(problem.free.sum()), 1)))
    cov_KPP = _covariance(problem, gradient_KPn * np.sqrt(w_n), kappa_K, inside_K)
    out = np.repeat(theta_KP[..., None], 2, axis=2)
    cases = [(k, p, side) for k in range(K) for p in np.flatnonzero(problem.free) for side in (0, 1)]
    if not cases:
        return out
    k, p, side = np.array(cases).T
    search = _Search(problem, theta_KP, cov_KPP, k, p, np.where(side == 0, -1.0, 1.0), quantile)
    for _ in range(rounds):
        search.round(y_Kn, best_K, kappa_K)
        if not len(search.live):
            break
    out[k, p, side] = search.bounds()
    return out


def _penalty(problem: Problem, theta_KP: np.ndarray) -> Any:
    return 0.0 if problem.prior is None else 0.5 * (((theta_KP - problem.prior[0]) / problem.prior[1]) ** 2).sum(1)


def _covariance(problem: Problem, gradient_KPn: np.ndarray, kappa_K: np.ndarray, inside_K: np.ndarray) -> np.ndarray:
    """kappa (mean psi' J J')^-1, ridged where a coefficient is not determined."""
    H_KPP = np.matmul(gradient_KPn, gradient_KPn.swapaxes(1, 2)) * inside_K[:, None, None]
    if problem.prior is not None:
        H_KPP = H_KPP + np.diag(1 / problem.prior[1] ** 2)
    free = problem.free
    H_KPP = np.where(free[:, None] & free[None, :], H_KPP, 0.0)
    scale_KP = np.sqrt(np.maximum(np.einsum("kpp->kp", H_KPP), 1e-300))
    H_KPP = H_KPP / (scale_KP[:, :, None] * scale_KP[:, None, :]) + 1e-10 * np.eye(H_KPP.shape[1])
    H_KPP[:, ~free, ~free] = 1.0
    H_KPP = np.where(np.isfinite(H_KPP), H_KPP, np.eye(H_KPP.shape[1]))
    return np.linalg.inv(H_KPP) / (scale_KP[:, :, None] * scale_KP[:, None, :]) * kappa_K[:, None, None]


class _Search:
    """For each (data set, coefficient, side) the value at which the signed root of the rise reaches the quantile: a bracketed secant."""

    def __init__(
        self, problem: Problem, theta_KP: np.ndarray, cov_KPP: np.ndarray, k: np.ndarray, p: np.ndarray, sign: np.ndarray, quantile: float
    ):
        self.problem, self.k, self.p, self.quantile = problem, k, p, quantile
        self.center = theta_KP[k, p]
        error = np.sqrt(np.maximum(cov_KPP[k, p, p], 1e-300))
        low, high = problem.form.bounds.T
        self.limit = np.where(sign < 0, low[p], high[p])
        self.room = np.abs(self.limit - self.center)
        self.sign, self.theta = sign, theta_KP[k].copy()
        self.along = cov_KPP[k, :, p] / np.maximum(cov_KPP[k, p, p], 1e-300)[:, None]
        self.step = np.minimum(quantile * error, np.where(np.isfinite(self.room), self.room, np.inf))
        self.inner, self.inner_rise = np.zeros(len(k)), np.zeros(len(k))
        self.outer, self.outer_rise = np.full(len(k), np.inf), np.full(len(k), np.inf)
        self.at = np.zeros(len(k))
        self.open = self.room <= 0
        self.found = np.where(self.open, self.limit, np.nan)
        self.live = np.flatnonzero(~self.open)

    def round(self, y_Kn: np.ndarray, best_K: np.ndarray, kappa_K: np.ndarray) -> None:
        i = self.live
        start = self.theta[i] + self.along[i] * ((self.step - self.at) * self.sign)[i, None]
        start[np.arange(len(i)), self.p[i]] = self.center[i] + self.sign[i] * self.step[i]
        free = np.broadcast_to(self.problem.free, start.shape).copy()
        free[np.arange(len(i)), self.p[i]] = False
        delta = self.problem.delta if np.ndim(self.problem.delta) == 0 else self.problem.delta[self.k[i]]
        found = solve(replace(self.problem, delta=delta), start, y_Kn=y_Kn[self.k[i]], free_KP=free, steps=120, tolerance=1e-8)
        finite = np.isfinite(found.objective_K)
        rise = np.where(finite, np.sqrt(np.maximum(2 * (found.objective_K - best_K[self.k[i]]) / kappa_K[self.k[i]], 0.0)), np.inf)
        within = rise < self.quantile
        # The next place is reached from inside: from too far out, a term may have vanished, with no slope left to bring it back.
        self.theta[i] = np.where(within[:, None], found.theta_KP, self.theta[i])
        self.at[i] = np.where(within, self.step[i], self.at[i])
        self.inner[i], self.inner_rise[i] = np.where(within, self.step[i], self.inner[i]), np.where(within, rise, self.inner_rise[i])
        self.outer[i], self.outer_rise[i] = np.where(within, self.outer[i], self.step[i]), np.where(within, self.outer_rise[i], rise)
        at_limit = within & (self.step[i] >= self.room[i])
        self.found[i[at_limit]] = self.limit[i[at_limit]]
        near = np.abs(rise - self.quantile) < 0.01 * self.quantile
        self.found[i[near]] = (self.center + self.sign * self.step)[i[near]]
        self.live = i[~(at_limit | near)]
        self._next()

    def _next(self) -> None:
        i = self.live
        inner, outer, low, high = self.inner[i], self.outer[i], self.inner_rise[i], self.outer_rise[i]
        with np.errstate(all="ignore"):
            secant = inner + (outer - inner) * (self.quantile - low) / (high - low)
            between = np.where(
                np.isfinite(high), np.clip(secant, inner + 0.05 * (outer - inner), outer - 0.05 * (outer - inner)), (inner + outer) / 2
            )
            beyond = self.step[i] * np.clip(1.05 * self.quantile / np.maximum(low, 1e-9), 1.2, 4.0)
        self.step[i] = np.minimum(np.where(np.isfinite(outer), between, beyond), self.room[i])

    def bounds(self) -> np.ndarray:
        """Where the search ended; what is still open is the last bracket's outer end, or the coefficient's own bound."""
        left = np.isnan(self.found)
        last = np.where(np.isfinite(self.outer), (self.inner + np.where(np.isfinite(self.outer), self.outer, 0)) / 2, np.inf)
        ends = np.where(np.isfinite(last), self.center + self.sign * last, self.limit)
        return np.where(left, ends, self.found)


def draw(
    problem: Problem, theta_P: np.ndarray, draws: int, rng: np.random.Generator, *, tolerance: float = 1e-7
) -> tuple[np.ndarray, dict[str, float]]:
    """(draws, P) bootstrap coefficients, and how 1 % of the draws compare with the same draws refitted from all starts.

    refitted: how many; agree: share of them whose objective is within 0.1 % of that from all starts, or lower; worst: largest relative
    excess.
    """
    n = len(problem.y_n)
    w_Kn = _draw_weights(problem, draws, rng, n) * (1.0 if problem.w_n is None else problem.w_n)
    drawn = replace(problem, prior=_draw_prior(problem, theta_P, draws, rng))
    found = solve(drawn, np.repeat(theta_P[None], draws, 0), w_Kn=w_Kn, tolerance=tolerance)
    check = rng.choice(draws, max(1, round(draws / 100)), replace=False)
    again = [
        from_all_starts(
            replace(problem, prior=drawn.prior and (drawn.prior[0][row], drawn.prior[1])), w_Kn=w_Kn[[row]], keep=3
        ).objective_K[0]
        for row in check
    ]
    excess = found.objective_K[check] / np.maximum(again, 1e-300) - 1
    P = int(problem.free.sum())
    count = n if problem.w_n is None else int((problem.w_n > 0).sum())
    low, high = problem.form.bounds.T
    spread_KP = theta_P + (found.theta_KP - theta_P) * np.sqrt(count / max(count - P, 1))
    facts = {
        "refitted": len(check),
        "agree": float((excess < 1e-3).mean()),
        "worst": float(excess.max()),
        "converged": float(found.converged_K.mean()),
    }
    return np.clip(spread_KP, low, high), facts


def _draw_prior(problem: Problem, theta_P: np.ndarray, draws: int, rng: np.random.Generator) -> Any:
    """A prior is data too: each draw moves its center by its deviation."""
    if problem.prior is None:
        return None
    center, width = problem.prior
    known = np.isfinite(width)
    kappa = noise(problem, (problem.y_n - problem.form.predict(theta_P[None], problem.x)[0])[None])[0][0]
    return center + rng.normal(size=(draws, len(center))) * np.where(known, width, 0.0) * np.sqrt(kappa), width


def _draw_weights(problem: Problem, draws: int, rng: np.random.Generator, n: int) -> np.ndarray:
    if not problem.form.curve:
        w_Kn = rng.exponential(size=(draws, n))
    else:
        length = max(1, round(n / 40))
        w_Kn = np.repeat(rng.exponential(size=(draws, -(-n // length))), length, axis=1)[:, :n]
    return w_Kn / w_Kn.mean(1, keepdims=True)
