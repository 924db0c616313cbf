r"""How a running job will end: several shapes of learning curve, each weighed by its evidence, tested on what is already past.

    power       c + a x^-b               shifted     c + a (x + s)^-b
    stretched   c + a exp(-(x / s)^b)    logistic    c + a / (1 + (x / s)^b)

(Domhan et al. 2015, IJCAI; Viering & Loog 2022, arXiv:2103.10948, for which shapes curves have.) The curve so far is averaged in windows
that grow with the step, so that each tells about as much as another; a shape weighs exp(-BIC / 2). The interval joins the spread of the
shapes, the uncertainty within each, and what the same method erred before at that reach: on earlier runs where there are some, whose
average error is then taken out (it is what the end of the schedule does), else on this run's own past. Where neither can test the
reach, nothing is predicted.

Shapes: m windows, P coefficients.   Cost: milliseconds for each cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats

from ..core.errors import UserError

WINDOWS = 40
LEAST = 8  # windows that a cut must leave
SAMPLES = 400
Curve = tuple[Any, Any]
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]

SHAPES: dict[str, tuple[int, Shape]] = {
    "power": (3, lambda p, x: np.exp(p[0]) + np.exp(p[1] - np.exp(p[2]) * np.log(x))),
    "shifted": (4, lambda p, x: np.exp(p[0]) + np.exp(p[1] - np.exp(p[2]) * np.log(np.maximum(x + p[3], 1e-9)))),
    "stretched": (4, lambda p, x: np.exp(p[0]) + np.exp(p[1] - np.exp(np.clip(np.exp(p[2]) * (np.log(x) - p[3]), -30, 30)))),
    "logistic": (4, lambda p, x: np.exp(p[0]) + np.exp(p[1]) / (1 + np.exp(np.clip(np.exp(p[2]) * (np.log(x) - p[3]), -30, 30)))),
}
"""Coefficients and curve, x relative to the last step seen; p[0] is the floor's logarithm, p[1] the height's, p[2] the exponent's."""


@dataclass
class Ending:
    """value in low to high at the level, at a step `reach` times the last one seen. weights: of the shapes.

    past: source (``earlier runs`` or ``this run``), n, mean, worst (absolute relative errors at this reach, after the correction), shift
    (the average error of earlier runs, taken out of value), note (the same in words).
    """

    value: float
    low: float
    high: float
    level: float
    at: float
    reach: float
    weights: dict[str, float]
    past: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def extrapolate(step: Any, loss: Any, at: float, *, earlier: Sequence[Curve] = (), level: float = 0.9, seed: int = 0) -> Ending:
    """The loss at a later step. step, loss: as logged so far. earlier: whole curves of runs like this one.

    Raises UserError when there are too few points, and when nothing tells how wrong a prediction of that reach was before.
    """
    x, y = _clean(step, loss)
    now = float(x[-1])
    if at <= now:
        raise UserError(f"wants a step after the last logged one, {now:g}; got {at:g}")
    reach = at / now
    found = _predict(x, y, at, np.random.default_rng(seed))
    if found is None:
        raise UserError(f"{len(x)} points of the curve are too few to extrapolate")
    log_K, weights = found
    errors, source = _errors_of(earlier, now, at), "earlier runs"
    own = not len(errors)
    if own:
        errors, source = _own_errors(x, y, reach), "this run"
    if not len(errors):
        raise UserError(
            f"nothing tells how wrong a prediction {reach:.3g} times ahead is: this run is too short to test it on its own past; give earlier runs, or ask nearer"
        )
    shift = 0.0 if own or len(errors) < 2 else float(errors.mean())
    left = errors - shift
    # Around the mean of n errors a new one spreads by sqrt(1 + 1/n); around 0 the errors are what they are.
    spread = float(np.std(left, ddof=1) * np.sqrt(1 + 1 / len(left))) if shift else float(np.sqrt((left**2).mean()))
    middle = float(np.median(log_K)) - shift
    low, high = np.quantile(log_K, [0.5 - level / 2, 0.5 + level / 2]) - shift
    off = float(stats.t.ppf(0.5 + level / 2, max(len(left) - (shift != 0), 1))) * spread
    size = np.abs(np.expm1(left))
    past = {
        "source": source,
        "n": len(left),
        "mean": float(size.mean()),
        "worst": float(size.max()),
        "shift": float(np.expm1(shift)),
        "note": f"{len(left)} predictions that reached {reach:.3g} times ahead, on {source}, were off by {size.mean():.2%} on average, {size.max():.2%} at worst"
        + (f", after their common error of {np.expm1(shift):+.2%} was taken out" if shift else ""),
    }
    return Ending(
        float(np.exp(middle)),
        float(np.exp(middle - np.hypot(max(middle - low, 0.0), off))),
        float(np.exp(middle + np.hypot(max(high - middle, 0.0), off))),
        level,
        float(at),
        reach,
        weights,
        past,
    )


def _clean(step: Any, loss: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(step, float), np.asarray(loss, float)
    good = np.isfinite(x) & np.isfinite(y) & (y > 0) & (x > 0)
    order = np.argsort(x[good], kind="stable")
    x, y = x[good][order], y[good][order]
    if len(x) < LEAST:
        raise UserError(f"{len(x)} points of the curve are too few to extrapolate; {LEAST} are needed")
    return x, y


def windows(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(step_m, loss_m): means over windows that grow with the step, after the first fiftieth."""
    keep = x >= x[-1] / 50
    x, y = x[keep], y[keep]
    edges = np.geomspace(x[0], x[-1] * (1 + 1e-9), WINDOWS + 1)
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, WINDOWS - 1)
    counts = np.bincount(index, minlength=WINDOWS)
    full = counts > 0
    return np.bincount(index, x, WINDOWS)[full] / counts[full], np.exp(np.bincount(index, np.log(y), WINDOWS)[full] / counts[full])


def _predict(x: np.ndarray, y: np.ndarray, at: float, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, float]] | None:
    """Draws of log loss at a step from all shapes, each as often as its evidence says; None where there is too little to go by."""
    x_m, y_m = windows(x, y)
    if len(x_m) < LEAST:
        return None
    now = float(x_m[-1])
    fits = {
        name: one
        for name, (count, shape) in SHAPES.items()
        if len(x_m) > count + 2 and (one := _fit(shape, count, x_m / now, np.log(y_m))) is not None
    }
    if not fits:
        return None
    scores = np.array([bic for _, _, bic in fits.values()])
    weight = np.exp(-(scores - scores.min()) / 2)
    weight /= weight.sum()
    draws = []
    for (name, (p, cov, _)), share in zip(fits.items(), weight):
        shape, count = SHAPES[name][1], round(SAMPLES * share)
        if count:
            drawn = rng.multivariate_normal(p, cov, size=count, method="svd") if count > 1 else p[None]
            with np.errstate(all="ignore"):
                draws.append(np.log([float(shape(one, np.array([at / now]))[0]) for one in (p, *drawn[1:])]))
    log_K = np.concatenate(draws)
    return log_K[np.isfinite(log_K)], dict(zip(fits, map(float, weight)))


def _fit(shape: Shape, count: int, x: np.ndarray, log_y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Best coefficients, their covariance, BIC; robust to spikes."""

    def residual(p: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.nan_to_num(np.log(shape(p, x)) - log_y, nan=1e3, posinf=1e3, neginf=-1e3)

    low, shifted = float(log_y.min()), shape is SHAPES["shifted"][1]
    last = (
        (-0.9 * float(x.min()), 3.0, 0.0) if shifted else (-12.0, 3.0, np.log(0.1))
    )  # a warm-up counts for less than its steps: s may be below 0
    best = None
    for floor, power in ((0.6, 0.3), (0.9, 0.7)):
        start = [np.log(floor) + low, np.log(1 - floor) + low, np.log(power), last[2]][:count]
        one = optimize.least_squares(
            residual,
            start,
            loss="soft_l1",
            f_scale=0.01,
            x_scale="jac",
            max_nfev=80,
            bounds=([-20.0, -20.0, np.log(0.02), last[0]][:count], [low + 1e-6, 8.0, np.log(4.0), last[1]][:count]),
        )
        if best is None or one.cost < best.cost:
            best = one
    if best is None:
        return None
    n, r = len(x), residual(best.x)
    variance = max(float((r**2).sum()) / max(n - count, 1), 1e-12)
    H = best.jac.T @ best.jac
    cov = np.linalg.pinv(H + 1e-6 * np.diag(np.diag(H)) + 1e-12 * np.eye(count)) * variance
    # A direction that the curve so far does not determine is not followed for orders of magnitude: half a unit of the logarithm at most.
    size = np.sqrt(np.maximum(np.diag(cov), 1e-300))
    shrink = np.minimum(1.0, 0.5 / size)
    return (
        best.x,
        cov * shrink[:, None] * shrink[None, :],
        float(n * np.log(2 * np.e * max(np.abs(r).mean(), 1e-9)) * 2 + count * np.log(n)),
    )


def _error(x: np.ndarray, y: np.ndarray, cut: float, at: float) -> float | None:
    """Log error of the prediction of the loss at `at` (a mean over a thirtieth of the way) from what came before the cut."""
    before = x <= cut
    around = np.abs(x - at) <= max((at - cut) / 30, float(np.median(np.diff(x))) / 2)
    if before.sum() < LEAST or not around.any():
        return None
    found = _predict(x[before], y[before], at, np.random.default_rng(0))
    return None if found is None else float(np.median(found[0]) - np.log(y[around]).mean())


def _own_errors(x: np.ndarray, y: np.ndarray, reach: float) -> np.ndarray:
    """Predictions of this reach inside the run, up to several ends in its later part."""
    found = [_error(x, y, end / reach, end) for end in x[-1] * np.array([1.0, 0.9, 0.8, 0.7])]
    return np.array([one for one in found if one is not None])


def _errors_of(earlier: Sequence[Curve], now: float, at: float) -> np.ndarray:
    """The same prediction on earlier runs: cut at the same step, where they are as long, else at the same share of their way."""
    found = []
    for step, loss in earlier:
        x, y = _clean(step, loss)
        scale = 1.0 if abs(float(x[-1]) / at - 1) < 0.02 else float(x[-1]) / at
        found.append(_error(x, y, now * scale, min(at * scale, float(x[-1]))))
    return np.array([one for one in found if one is not None])
