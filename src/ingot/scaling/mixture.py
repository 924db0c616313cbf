"""The best shares of the training domains, from fits of a law of mixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize

from ..core.errors import UserError
from .backtest import past_groups, pooled
from .fit import Fit
from .predict import refuse_unknown


def best_mixture(fits: Sequence[Fit], weights: Sequence[float] | None = None, *, most: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The shares that make the weighted sum of the predicted losses lowest, from fits of a law of mixtures (one a validation domain).

    most: the largest share that a domain may have (there may be too little of it).
    Returns shares, loss, and distance: half the L1 distance to the nearest mixture that was measured; far from all of them, try it first;
    past: what the held-out rows of all fits erred. Raises UserError for domains that the fits do not know, and weights that weigh nothing.
    """
    law = fits[0].law
    names = list(law.inputs)
    if any(list(one.law.inputs) != names for one in fits):
        raise UserError("the fits are about different training domains")
    w = np.ones(len(fits)) if weights is None else np.asarray(weights, float)
    if len(w) != len(fits) or not np.isfinite(w).all() or w.min() < 0 or w.sum() <= 0:
        raise UserError("wants a weight of at least 0 for each fit, and one above 0")
    w = w / w.sum()
    short = {name.removeprefix("mix_"): name for name in names}
    allowed = {short.get(name, name): share for name, share in (most or {}).items()}
    refuse_unknown(fits[0].form, allowed, names)
    caps = np.array([allowed.get(name, 1.0) for name in names])
    if not (caps >= 0).all() or caps.sum() < 1:
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
        "past": past_groups(pooled([one.backtest for one in fits])),
    }
