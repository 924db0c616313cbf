"""Best learning rate and batch from a fit of batch_lr, with what past choices of that reach missed the best by."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.errors import UserError
from .backtest import past, refuse_untested
from .fit import Fit
from .predict import Prediction, flops, optimum, spread


def rate_and_batch(
    fit: Fit,
    *,
    params: float | None = None,
    tokens: float | None = None,
    budget: float | str | None = None,
    sizes: Fit | None = None,
    level: float | None = None,
    untested: bool = False,
) -> Prediction:
    """Best learning rate (the value) and batch in tokens, from a fit of batch_lr.

    At params and tokens; or at a budget in FLOPs and one of them; or at a budget and the best sizes by another fit. past holds, under lr
    and batch, by what factor the choices of smaller fits missed the best of larger settings; that, and the draws, make the intervals.
    """
    law: Any = fit.law
    if set(law.chooses) != {"lr", "batch"}:
        raise UserError(f"{fit.form} knows no best learning rate; fit batch_lr")
    if budget is not None and sizes is not None:
        best = optimum(sizes, budget, untested=untested).choice
        params, tokens = best["params"], best["tokens"]
    elif budget is not None and (params is None) != (tokens is None):
        params, tokens = params or flops(budget) / (6 * (tokens or 1.0)), tokens or flops(budget) / (6 * (params or 1.0))
    if params is None or tokens is None:
        raise UserError(
            "the best learning rate wants params and tokens, or a budget with one of them or with a fit that tells the best sizes"
        )
    level = level or fit.level
    top = 6 * float(np.max(np.asarray(fit.table["params"], float) * np.asarray(fit.table["tokens"], float)))
    reach = 6 * params * tokens / top
    known = {name: past(fit.backtest, reach, name) for name in law.chooses}
    for name, one in known.items():
        refuse_untested(one, untested, f"the best {name}")
    drawn = dict(zip(law.chooses, law.optimum(np.concatenate([fit.theta[None], fit.draws]), params, tokens)))
    ends = {name: _ends(fit, values_K, known[name], level) for name, values_K in drawn.items()}
    return Prediction(
        float(drawn["lr"][0]),
        *ends["lr"],
        level,
        {"params": params, "tokens": tokens},
        reach,
        known
        | {
            "tested": all(one["tested"] for one in known.values()),
            "within": reach <= 1,
            "reach": reach,
            "note": "; ".join(f"best {name}: {one['note']}" for name, one in known.items()),
        },
        {name: float(values_K[0]) for name, values_K in drawn.items()},
        ends,
    )


def _ends(fit: Fit, values_K: np.ndarray, known: dict[str, Any], level: float) -> tuple[float, float]:
    """The interval of a choice: factors, so on the scale of logarithms; the first of values is the best fit's."""
    log_K = np.log(values_K)
    low, high = np.quantile(log_K[1:] if len(log_K) > 1 else log_K, [0.5 - level / 2, 0.5 + level / 2])
    wider, normal = spread(fit, level)
    off = normal * float(np.log1p(known.get("rms", 0.0))) * known.get("stretch", 1.0)
    down, up = (np.hypot(wider * max(part, 0.0), off) for part in (log_K[0] - low, high - log_K[0]))
    return float(np.exp(log_K[0] - down)), float(np.exp(log_K[0] + up))
