"""Ask fitted laws: the output at a point, the loss at a budget, the best sizes, and accuracy through the loss.

Every answer carries its reach (how far beyond the fitted data it lies) and what past predictions of that reach erred; its interval joins
the bootstrap draws with that error, in quadrature. Beyond what the back-test reached nothing is answered, unless ``untested=True`` asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ..core.errors import UserError
from ..core.quantities import Quantity, parse_quantity
from ..core.resolve import nearest
from .backtest import farthest, past, past_groups, refuse_untested
from .fit import Fit, as_table
from .table import Table, size


@dataclass
class Prediction:
    """value in low to high at the level. inputs: where it was asked.  reach, past: see ``ingot.scaling.backtest.past``.

    choice, choice_interval: what was chosen (params, tokens, lr, batch) and its interval over the draws.
    through: the loss that an accuracy was read off, as a prediction of its own.
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
    through: dict[str, Any] | None = None

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


def refuse_unknown(form: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError for an input that the law does not read: passed over in silence, it would seem to count."""
    known = list(known)
    for name in given:
        if name not in known:
            raise UserError(f"{form} reads no {name!r} here. {nearest(name, known) or 'It reads ' + (', '.join(known) or 'nothing else')}")


def refuse_curves(fit: Fit) -> None:
    """Raise UserError for a law of whole curves: a point of one is nothing without the rates that led to it."""
    if fit.law.curve:
        raise UserError(
            f"{fit.form} is a law of whole training curves: a single point tells it nothing; ask how a run goes on, with --job RUN (continued)"
        )


def predict(
    fit: Fit,
    *,
    budget: float | str | None = None,
    level: float | None = None,
    through: Fit | None = None,
    untested: bool = False,
    **inputs: float,
) -> Prediction:
    """The predicted output at given inputs (``params=1e9, tokens=2e10``), or the lowest loss that a budget in FLOPs buys.

    With a budget and one of params and tokens, the other follows from C = 6 N D. through: a fit of losses, for a law that reads a loss
    (`downstream`, `average_error`): the loss is predicted first, and both steps are in the interval. Raises UserError for a law of whole
    curves, for inputs the law does not have, and for a reach that the back-test did not test, unless untested.
    """
    law = fit.law
    refuse_curves(fit)
    if through is not None:
        return _through(fit, through, budget=budget, level=level, untested=untested, **inputs)
    refuse_unknown(fit.form, inputs, dict.fromkeys([*law.inputs, *(("params", "tokens") if budget is not None else ())]))
    if budget is not None:
        sizes = {name: inputs[name] for name in ("params", "tokens") if name in inputs}
        if {"params", "tokens"} <= set(law.inputs) and not sizes:
            return optimum(fit, budget, level=level, untested=untested, **inputs)
        if len(sizes) == 2:
            raise UserError("a budget with both params and tokens says one thing too often; give one of them, or no budget")
        if len(sizes) == 1:
            inputs |= (
                {"tokens": flops(budget) / (6 * sizes["params"])}
                if "params" in sizes
                else {"params": flops(budget) / (6 * sizes["tokens"])}
            )
        elif "flop" in law.inputs:
            inputs["flop"] = flops(budget)
        elif list(law.inputs) == ["loss"]:
            raise UserError(
                f"{fit.form} reads a loss, of which a budget tells nothing; give the fit of the loss too: --through LOSS.json (through=)"
            )
        else:
            raise UserError(f"{fit.form} takes no budget; it takes {', '.join(law.inputs)}")
    if missing := [name for name in law.inputs if name not in inputs]:
        raise UserError(f"{fit.form} needs {', '.join(missing)}")
    point = as_table(inputs)
    return _answer(fit, point, float(fit(point)[0]), fit.sample(point)[:, 0], level or fit.level, inputs, untested)


def _answer(
    fit: Fit, point: Table, value: float, samples_D: np.ndarray, level: float, inputs: Mapping[str, Any], untested: bool
) -> Prediction:
    """The draws joined with what the past tells."""
    reach = reach_of(fit, point)
    known = past_groups(fit.backtest) if reach is None else past(fit.backtest, reach)
    refuse_untested(known, untested, fit.form)
    if outside := _outside(fit, point):
        name, factor = max(outside.items(), key=lambda one: one[1])
        if reach is not None and factor >= farthest(fit.backtest):
            refuse_untested(known | {"tested": False, "within": False, "reach": factor, "note": f"so far lies {name}"}, untested, fit.form)
        known |= {"outside": outside, "within": False}
        known["note"] += "; " + ", ".join(f"{name} lies {factor:.3g} times beyond the fitted range" for name, factor in outside.items())
    low, high = np.nanquantile(samples_D, [0.5 - level / 2, 0.5 + level / 2]) if len(samples_D) else (value, value)
    wider, normal = spread(fit, level)
    off = normal * known.get("rms", 0.0) * known.get("stretch", 1.0) * (value if fit.law.residual == "log" else 1.0)
    ends = np.clip([value - np.hypot(wider * max(value - low, 0), off), value + np.hypot(wider * max(high - value, 0), off)], *fit.law.span)
    return Prediction(value, float(ends[0]), float(ends[1]), level, {name: float(entry) for name, entry in inputs.items()}, reach, known)


def spread(fit: Fit, level: float) -> tuple[float, float]:
    """(by how much draws are widened, the normal quantile): draws from a handful of points know their spread badly, so Student's."""
    spare, normal = max(size(fit.table) - len(fit.theta) + len(fit.fixed), 1), float(stats.norm.ppf(0.5 + level / 2))
    return float(stats.t.ppf(0.5 + level / 2, spare)) / normal, normal


def reach_of(fit: Fit, point: Mapping[str, Any]) -> float | None:
    """How many times beyond the largest fitted scale a point lies; None for laws without a scale.

    The scale is that of the columns which both have, so that 6 N D is never set against metered FLOPs.
    """
    if fit.scale() is None:
        return None
    top, at = fit.law.scale({name: column for name, column in fit.table.items() if name in point}), fit.law.scale(point)
    return None if top is None or at is None else float(at[0] / np.max(top))


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


def _through(fit: Fit, loss: Fit, /, *, budget: float | str | None, level: float | None, untested: bool, **inputs: float) -> Prediction:
    """Two steps: the loss, then what the law reads off it. The loss's interval is carried along the curve and joined in quadrature."""
    if list(fit.law.inputs) != ["loss"]:
        raise UserError(f"{fit.form} reads no loss, so it cannot go through another fit; it takes {', '.join(fit.law.inputs)}")
    if loss.law.output != "loss":
        raise UserError(f"the fit to go through is of {loss.law.output}, not of a loss")
    if "loss" in inputs:
        raise UserError("the loss is predicted by the fit to go through; give a budget, or that fit's inputs")
    first = predict(loss, budget=budget, level=level or fit.level, untested=untested, **inputs)
    point = as_table({"loss": first.value})
    answer = _answer(fit, point, float(fit(point)[0]), fit.sample(point)[:, 0], first.level, first.inputs, untested)
    ends = fit({"loss": np.array([max(first.low, 1e-9), first.high])})
    low = answer.value - np.hypot(answer.value - answer.low, max(answer.value - float(ends.min()), 0.0))
    high = answer.value + np.hypot(answer.high - answer.value, max(float(ends.max()) - answer.value, 0.0))
    answer.low, answer.high = (float(end) for end in np.clip([low, high], *fit.law.span))
    answer.choice, answer.choice_interval, answer.through = first.choice, first.choice_interval, first.as_dict()
    answer.past["note"] = f"{fit.form}: {answer.past['note']}; {loss.form}: {first.past['note']}"
    return answer


def optimum(fit: Fit, budget: float | str, *, level: float | None = None, untested: bool = False, **inputs: float) -> Prediction:
    """The sizes that make the loss lowest at C = 6 N D, and that loss. inputs: the law's other inputs (unique_tokens, experts, share)."""
    law, C, level = fit.law, flops(budget), level or fit.level
    if not {"params", "tokens"} <= set(law.inputs) or law.output != "loss" or "lr" in law.inputs:
        raise UserError(f"{fit.form} gives no loss from params and tokens, so it has no best sizes; it takes {', '.join(law.inputs)}")
    refuse_unknown(fit.form, inputs, [name for name in law.inputs if name not in ("params", "tokens")])
    log_N = np.linspace(np.log(1e4), np.log(C / 6 / 1e4), 801)
    grid = as_table({"params": np.exp(log_N), "tokens": C / 6 / np.exp(log_N), **inputs})
    if missing := [name for name in law.inputs if name not in grid]:
        raise UserError(f"{fit.form} needs {', '.join(missing)} too")
    theta_KP = np.concatenate([fit.theta[None], fit.draws])
    best_K, loss_K = lowest(log_N, law.predict(theta_KP, law.prepare(grid)))
    N = np.exp(best_K)
    point = as_table({"params": N[0], "tokens": C / 6 / N[0], **inputs})
    answer = _answer(fit, point, float(np.exp(loss_K[0])), np.exp(loss_K[1:]), level, {"flop": C, **inputs}, untested)
    answer.choice = {"params": float(N[0]), "tokens": float(C / 6 / N[0])}
    if len(N) > 1:
        ends = [float(end) for end in np.quantile(N[1:], [0.5 - level / 2, 0.5 + level / 2])]
        answer.choice_interval = {"params": (ends[0], ends[1]), "tokens": (C / 6 / ends[1], C / 6 / ends[0])}
    return answer


def sizes_for(fit: Fit, budget: float | str, *, level: float | None = None, untested: bool = False, **inputs: float) -> Prediction:
    """The sizes to buy with a budget, and the loss: the optimum where the law knows sizes; for a law in FLOPs alone (a ladder of one ratio
    of tokens to parameters) those at the ladder's own ratio and its own FLOPs per parameter and token."""
    if {"params", "tokens"} <= set(fit.law.inputs) or not {"params", "tokens", "flop"} <= set(fit.table):
        return optimum(fit, budget, level=level, untested=untested, **inputs)
    answer = predict(fit, flop=flops(budget), level=level, untested=untested, **inputs)
    N, D, C = (np.asarray(fit.table[name], float) for name in ("params", "tokens", "flop"))
    # Both change with size (embeddings weigh less and less): that of the largest is nearest.
    largest = int(np.argmax(C))
    ratio, cost = float(D[largest] / N[largest]), float(C[largest] / (N[largest] * D[largest]))
    size_ = float(np.sqrt(flops(budget) / (cost * ratio)))
    answer.choice = {"params": size_, "tokens": ratio * size_}
    return answer


def lowest(x_m: np.ndarray, y_Km: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place and height of the minimum of each row, by a parabola through its three lowest neighbors."""
    at = np.argmin(y_Km, axis=1).clip(1, len(x_m) - 2)
    rows, h = np.arange(len(y_Km)), x_m[1] - x_m[0]
    left, mid, right = y_Km[rows, at - 1], y_Km[rows, at], y_Km[rows, at + 1]
    bend = np.maximum(left - 2 * mid + right, 1e-300)
    shift = np.clip((left - right) / (2 * bend), -1, 1)
    return x_m[at] + shift * h, mid - 0.125 * (left - right) ** 2 / bend
