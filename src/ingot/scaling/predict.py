"""Ask fitted laws: the loss at a budget, the best sizes, rates and mixtures, where two laws cross, how a running job will end.

Every answer carries its reach (how far beyond the fitted data it lies) and what past predictions of that reach erred; its interval joins the
bootstrap draws with that error, in quadrature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy import optimize, stats

from ..core.errors import UserError
from ..core.quantities import Quantity, parse_quantity
from .backtest import backtest, past, past_groups
from .fit import Fit, _minimize, _problem, as_table, build
from .interval import draw
from .table import Table, size, take


@dataclass
class Prediction:
    """value in low to high at the level. inputs: where it was asked.  reach, past: see ``ingot.scaling.backtest.past``.

    choice, choice_interval: what was chosen (params, tokens, lr, batch) and its interval over the draws.
    """

    value: float
    low: float
    high: float
    level: float
    inputs: dict[str, float]
    reach: float | None
    past: dict[str, Any]
    choice: dict[str, float] = field(default_factory=dict)
    choice_interval: dict[str, tuple[float, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def flops(budget: float | str | Quantity) -> float:
    """A budget in FLOPs. Raises UserError for another unit."""
    if isinstance(budget, int | float):
        return float(budget)
    try:
        amount = parse_quantity(budget)
    except ValueError as error:
        raise UserError(f"the budget {error}") from None
    if amount.unit != "flops" or amount.value <= 0:
        raise UserError(f"the budget wants FLOPs such as '1e21 flops', got {budget!r}")
    return amount.value


def predict(fit: Fit, *, budget: float | str | None = None, level: float | None = None, **inputs: float) -> Prediction:
    """The predicted output at given inputs (``params=1e9, tokens=2e10``), or the lowest loss that a budget in FLOPs buys.

    With a budget and one of params and tokens, the other follows from C = 6 N D. Raises UserError for inputs the law does not have.
    """
    law = fit.law
    if budget is not None:
        sizes = {name: inputs[name] for name in ("params", "tokens") if name in inputs}
        if {"params", "tokens"} <= set(law.inputs) and not sizes:
            return optimum(fit, budget, level=level, **inputs)
        if len(sizes) == 1:
            inputs |= (
                {"tokens": flops(budget) / (6 * sizes["params"])}
                if "params" in sizes
                else {"params": flops(budget) / (6 * sizes["tokens"])}
            )
        elif "flop" in law.inputs:
            inputs["flop"] = flops(budget)
        else:
            raise UserError(f"{fit.form} takes no budget; it takes {', '.join(law.inputs)}")
    if missing := [name for name in law.inputs if name not in inputs]:
        raise UserError(f"{fit.form} needs {', '.join(missing)}")
    point = as_table(inputs)
    return _with_interval(fit, point, float(fit(point)[0]), fit.sample(point)[:, 0], level or fit.level, inputs)


def _with_interval(fit: Fit, point: Table, value: float, samples_D: np.ndarray, level: float, inputs: Mapping[str, Any]) -> Prediction:
    law, top = fit.law, fit.scale()
    scale_n = law.scale(point) if top is not None else None
    reach = None if scale_n is None or top is None else float(scale_n[0]) / top
    known = past_groups(fit.backtest) if reach is None else past(fit.backtest, reach)
    if outside := _outside(fit, point):
        known |= {"outside": outside, "within": False}
        known["note"] += "; " + ", ".join(f"{name} lies {factor:.3g} times beyond the fitted range" for name, factor in outside.items())
    low, high = np.nanquantile(samples_D, [0.5 - level / 2, 0.5 + level / 2]) if len(samples_D) else (value, value)
    # Draws from a handful of points know their own spread badly: Student's quantile instead of the normal one.
    spare, normal = max(size(fit.table) - len(fit.theta) + len(fit.fixed), 1), float(stats.norm.ppf(0.5 + level / 2))
    wider = float(stats.t.ppf(0.5 + level / 2, spare)) / normal
    off = normal * known.get("rms", 0.0) * known.get("stretch", 1.0) * (value if law.residual == "log" else 1.0)
    return Prediction(
        value,
        float(value - np.hypot(wider * max(value - low, 0), off)),
        float(value + np.hypot(wider * max(high - value, 0), off)),
        level,
        {name: float(entry) for name, entry in inputs.items()},
        reach,
        known,
    )


def _outside(fit: Fit, point: Table) -> dict[str, float]:
    """Inputs more than 1 % outside the range that was fitted, and by what factor: compute alone does not tell that a size is far off."""
    found = {}
    for name in fit.law.inputs:
        seen, value = np.asarray(fit.table[name], float), float(np.asarray(point[name], float)[0])
        if seen.min() > 0 and value > 0 and not fit.law.curve:
            factor = max(value / seen.max(), seen.min() / value)
            if factor > 1.01:
                found[name] = float(factor)
    return found


def optimum(fit: Fit, budget: float | str, *, level: float | None = None, **inputs: float) -> Prediction:
    """The sizes that make the loss lowest at C = 6 N D, and that loss. inputs: the law's other inputs (unique_tokens, experts, share)."""
    law, C, level = fit.law, flops(budget), level or fit.level
    if not {"params", "tokens"} <= set(law.inputs) or law.output != "loss" or "lr" in law.inputs:
        raise UserError(f"{fit.form} gives no loss from params and tokens, so it has no best sizes; it takes {', '.join(law.inputs)}")
    log_N = np.linspace(np.log(1e4), np.log(C / 6 / 1e4), 801)
    grid = as_table({"params": np.exp(log_N), "tokens": C / 6 / np.exp(log_N), **inputs})
    if missing := [name for name in law.inputs if name not in grid]:
        raise UserError(f"{fit.form} needs {', '.join(missing)} too")
    theta_KP = np.concatenate([fit.theta[None], fit.draws])
    best_K, loss_K = _lowest(log_N, law.predict(theta_KP, law.prepare(grid)))
    N = np.exp(best_K)
    point = as_table({"params": N[0], "tokens": C / 6 / N[0], **inputs})
    answer = _with_interval(fit, point, float(np.exp(loss_K[0])), np.exp(loss_K[1:]), level, {"flop": C, **inputs})
    answer.choice = {"params": float(N[0]), "tokens": float(C / 6 / N[0])}
    if len(N) > 1:
        ends = [float(end) for end in np.quantile(N[1:], [0.5 - level / 2, 0.5 + level / 2])]
        answer.choice_interval = {"params": (ends[0], ends[1]), "tokens": (C / 6 / ends[1], C / 6 / ends[0])}
    return answer


def sizes_for(fit: Fit, budget: float | str, *, level: float | None = None, **inputs: float) -> Prediction:
    """The sizes to buy with a budget, and the loss: the optimum where the law knows sizes; for a law in FLOPs alone (a ladder of one ratio of
    tokens to parameters) those at the ladder's own ratio and its own FLOPs per parameter and token."""
    if {"params", "tokens"} <= set(fit.law.inputs) or not {"params", "tokens", "flop"} <= set(fit.table):
        return optimum(fit, budget, level=level, **inputs)
    answer = predict(fit, flop=flops(budget), level=level, **inputs)
    N, D, C = (np.asarray(fit.table[name], float) for name in ("params", "tokens", "flop"))
    # Both change with size (embeddings weigh less and less): that of the largest is nearest.
    largest = int(np.argmax(C))
    ratio, cost = float(D[largest] / N[largest]), float(C[largest] / (N[largest] * D[largest]))
    size_ = float(np.sqrt(flops(budget) / (cost * ratio)))
    answer.choice = {"params": size_, "tokens": ratio * size_}
    return answer


def _lowest(x_m: np.ndarray, y_Km: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place and height of the minimum of each row, by a parabola through its three lowest neighbors."""
    at = np.argmin(y_Km, axis=1).clip(1, len(x_m) - 2)
    rows, h = np.arange(len(y_Km)), x_m[1] - x_m[0]
    left, mid, right = y_Km[rows, at - 1], y_Km[rows, at], y_Km[rows, at + 1]
    bend = np.maximum(left - 2 * mid + right, 1e-300)
    shift = np.clip((left - right) / (2 * bend), -1, 1)
    return x_m[at] + shift * h, mid - 0.125 * (left - right) ** 2 / bend


def rate_and_batch(
    fit: Fit,
    *,
    params: float | None = None,
    tokens: float | None = None,
    budget: float | str | None = None,
    sizes: Fit | None = None,
    level: float | None = None,
) -> Prediction:
    """Best learning rate (the value) and batch in tokens, from a fit of batch_lr.

    At params and tokens; or at a budget in FLOPs and one of them; or at a budget and the best sizes by another fit.
    """
    law: Any = fit.law
    if not hasattr(law, "optimum"):
        raise UserError(f"{fit.form} knows no best learning rate; fit batch_lr")
    if budget is not None and sizes is not None:
        best = optimum(sizes, budget).choice
        params, tokens = best["params"], best["tokens"]
    elif budget is not None and (params is None) != (tokens is None):
        params, tokens = params or flops(budget) / (6 * (tokens or 1.0)), tokens or flops(budget) / (6 * (params or 1.0))
    if params is None or tokens is None:
        raise UserError(
            "the best learning rate wants params and tokens, or a budget with one of them or with a fit that tells the best sizes"
        )
    level = level or fit.level
    lr_K, batch_K = law.optimum(np.concatenate([fit.theta[None], fit.draws]), params, tokens)
    ends = [0.5 - level / 2, 0.5 + level / 2]
    pairs = {}
    for name, values in (("lr", lr_K), ("batch", batch_K)):
        low, high = np.quantile(values[1:] if len(values) > 1 else values, ends)
        pairs[name] = (float(low), float(high))
    top = fit.scale()
    reach = 6 * params * tokens / top if top else None
    return Prediction(
        float(lr_K[0]),
        *pairs["lr"],
        level,
        {"params": params, "tokens": tokens},
        reach,
        past(fit.backtest, reach or 1.0),
        {"lr": float(lr_K[0]), "batch": float(batch_K[0])},
        pairs,
    )


def best_mixture(fits: Sequence[Fit], weights: Sequence[float] | None = None, *, most: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The shares that make the weighted sum of the predicted losses lowest, from fits of a law of mixtures (one for each validation domain).

    most: the largest share that a domain may have (there may be too little of it).
    Returns shares, loss, and distance: half the L1 distance to the nearest mixture that was measured; far from all of them, try it first.
    """
    law = fits[0].law
    names = list(law.inputs)
    if any(list(one.law.inputs) != names for one in fits):
        raise UserError("the fits are about different training domains")
    w = np.ones(len(fits)) / len(fits) if weights is None else np.asarray(weights, float) / np.sum(weights)
    caps = np.array([dict(most or {}).get(name, dict(most or {}).get(name.removeprefix("mix_"), 1.0)) for name in names])
    if caps.sum() < 1:
        raise UserError("the largest shares allowed add up to less than 1")

    def loss(r: np.ndarray) -> float:
        return float(sum(weight * one(dict(zip(names, r / r.sum())))[0] for weight, one in zip(w, fits)))

    tried = np.stack([np.asarray(fits[0].table[name], float) for name in names], 1)
    starts = [caps / caps.sum(), *tried[np.argsort([loss(np.maximum(r, 1e-6)) for r in tried])[:3]]]
    rule = {"type": "eq", "fun": lambda r: r.sum() - 1}
    found = [
        optimize.minimize(loss, np.clip(start, 1e-6, caps), method="SLSQP", bounds=[(0.0, cap) for cap in caps], constraints=rule)
        for start in starts
    ]
    best = min((one for one in found if one.success), key=lambda one: one.fun, default=found[0])
    shares = np.clip(best.x, 0, None) / np.clip(best.x, 0, None).sum()
    return {
        "shares": dict(zip(names, map(float, shares))),
        "loss": loss(shares),
        "distance": float(0.5 * np.abs(tried - shares).sum(1).min()),
        "past": past_groups(fits[0].backtest),
    }


def crossing(
    first: Fit, second: Fit, *, along: str = "budget", low: float | None = None, high: float | None = None, **inputs: float
) -> dict[str, Any]:
    """Where two laws predict the same loss: along the budget (each at its own best sizes) or along an input column, others given.

    low, high: where to look; by default from the smallest fitted scale, at most a hundredth of the largest, to a thousand times that. Returns at (None when they do not
    cross there), interval over the draws, share of the draws that cross, which is lower before, and the past of each at that reach.
    """
    top = (
        max(one.scale() or 1.0 for one in (first, second))
        if along == "budget"
        else max(float(np.max(one.table[along])) for one in (first, second))
    )
    least = min(
        [
            top / 100,
            *(
                float(np.min(scale))
                for one in (first, second)
                if along == "budget" and (scale := one.law.scale(one.table)) is not None and np.min(scale) > 0
            ),
        ]
    )
    x_m = np.geomspace(low or least, high or top * 1000, 161)
    curves = [_along(one, along, x_m, inputs) for one in (first, second)]
    count = min(len(curves[0]), len(curves[1]))
    gap_Km = curves[0][:count] - curves[1][:count]
    at_K = np.array([_root(np.log(x_m), gap_m) for gap_m in gap_Km])
    drawn = at_K[1:][np.isfinite(at_K[1:])]
    level = first.level
    at = float(np.exp(at_K[0])) if np.isfinite(at_K[0]) else None
    ends = tuple(float(np.exp(end)) for end in np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])) if len(drawn) else None
    reaches = (
        {}
        if at is None or along != "budget"
        else {name: past(one.backtest, at / (one.scale() or at)) for name, one in (("first", first), ("second", second))}
    )
    return {
        "along": along,
        "at": at,
        "interval": ends,
        "level": level,
        "crossing_draws": float(np.isfinite(at_K[1:]).mean()) if count > 1 else None,
        "lower_before": "first" if gap_Km[0, 0] < 0 else "second",
        "past": reaches,
    }


def _along(one: Fit, along: str, x_m: np.ndarray, inputs: Mapping[str, float]) -> np.ndarray:
    """(1 + D, m) predictions of the fit and its draws, on the residual scale."""
    law, theta_KP = one.law, np.concatenate([one.theta[None], one.draws])
    if along != "budget":
        if along not in law.inputs:
            raise UserError(f"{one.form} has no input {along!r}; it has {', '.join(law.inputs)}")
        return law.predict(theta_KP, law.prepare(as_table({**inputs, along: x_m})))
    if "flop" in law.inputs:
        return law.predict(theta_KP, law.prepare(as_table({**inputs, "flop": x_m})))
    found = []
    for C in x_m:
        log_N = np.linspace(np.log(1e4), np.log(C / 6 / 1e4), 201)
        found.append(
            _lowest(
                log_N, law.predict(theta_KP, law.prepare(as_table({"params": np.exp(log_N), "tokens": C / 6 / np.exp(log_N), **inputs})))
            )[1]
        )
    return np.array(found).T


def _root(x_m: np.ndarray, gap_m: np.ndarray) -> float:
    change = np.flatnonzero(np.sign(gap_m[1:]) != np.sign(gap_m[:-1]))
    if not len(change):
        return np.nan
    i = change[0]
    return float(x_m[i] + (x_m[i + 1] - x_m[i]) * gap_m[i] / (gap_m[i] - gap_m[i + 1]))


@dataclass
class Continuation:
    """How a run goes on: loss with low and high at every planned step; past: errors of the same method inside the run so far, by reach."""

    step: np.ndarray
    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    past: list[dict[str, float]]
    fit: Fit


PRIOR: dict[str, dict[str, tuple[float, float]]] = {
    "multi_power": {"B": (430.0, 0.5), "C": (2.0, 0.5), "beta": (0.59, 0.1), "gamma": (0.64, 0.1), "alpha": (0.46, 0.15)},
    "annealing": {"alpha": (0.48, 0.15)},
}
"""Values published for 25 M to 400 M parameters (Luo et al. 2025), with room: a run that has not yet annealed says nothing about annealing."""


def continued(
    sofar: Mapping[str, Any],
    plan: Mapping[str, Any],
    *,
    law: str = "multi_power",
    like: Fit | None = None,
    level: float = 0.9,
    draws: int = 200,
    seed: int = 0,
    knobs: Mapping[str, Any] | None = None,
) -> Continuation:
    """Extrapolate a running job. sofar: step, lr, loss as logged; plan: step, lr of what is to come.

    like: a fit of the same law to earlier runs, whose coefficients guide what this run does not show yet (deviation 20 %, and 5 % of an
    exponent); without, published values do. Rates relative to the peak carry over, so B is rescaled by the peak learning rate.
    """
    table = {name: np.asarray(sofar[name], float) for name in ("step", "lr", "loss")}
    table = take(table, np.isfinite(table["loss"]))
    form = build(law, table, knobs)
    if not form.curve:
        raise UserError(f"{law} is no law of whole training curves; take multi_power or annealing")
    if form.by_paper:
        raise UserError(
            f"a single curve that has not annealed yet wants priors, which {law} does not take when it is fitted as its paper does"
        )
    if size(table) < len(form.coefficients) + 5:
        raise UserError(f"{size(table)} points of the curve are too few to extrapolate; {len(form.coefficients) + 5} are needed")
    problem, best = _minimize(_problem(form, table, {}, _guide(law, form, like, float(table["lr"].max()))), form.delta)
    theta_P = best.theta_KP[0]
    draws_KP, agreement = draw(problem, theta_P, draws, np.random.default_rng(seed))
    held = backtest(replace(problem), table["step"], cuts=5).bins()
    ahead = {name: np.concatenate([table[name], np.asarray(plan[name], float)]) for name in ("step", "lr")}
    x, n = form.prepare(ahead), len(table["step"])
    loss = np.exp(form.predict(theta_P[None], x)[0][n:])
    sample = np.exp(form.predict(draws_KP, x)[:, n:])
    low, high = np.quantile(sample, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    reach = ahead["step"][n:] / table["step"].max()
    off = stats.norm.ppf(0.5 + level / 2) * np.array([_rms(past(held, float(r))) for r in reach]) * loss
    fit = Fit(
        law,
        dict(knobs or {}),
        {c.name: float(v) for c, v in zip(form.coefficients, form.natural(theta_P))},
        {},
        level,
        theta_P,
        draws_KP,
        {},
        held,
        [],
        table,
        method={"bootstrap": agreement},
    )
    return Continuation(
        ahead["step"][n:],
        loss,
        loss - np.hypot(np.maximum(loss - low, 0), off),
        loss + np.hypot(np.maximum(high - loss, 0), off),
        level,
        held,
        fit,
    )


def _rms(known: Mapping[str, Any]) -> float:
    return float(known.get("rms", 0.0) * known.get("stretch", 1.0))


def _guide(law: str, form: Any, like: Fit | None, peak: float) -> dict[str, tuple[float, float]]:
    """Priors by coefficient: none on the level and the size of the curve, which every run shows by itself."""
    if like is None:
        known, reference = PRIOR.get(law, {}), 3e-4
    else:
        known = {
            c.name: (like.estimates[c.name], 0.2 if c.log else 0.05 * abs(like.estimates[c.name]) + 1e-9)
            for c in form.coefficients
            if c.name not in ("L_0", "A")
        }
        reference = float(np.max(like.table["lr"]))
    return {name: (value * reference / peak, width) if name == "B" else (value, width) for name, (value, width) in known.items()}
