r"""Effects of contenders from pairs of runs with the same seed, for 3 to 12 seeds.

    d_s = ln y_contender(s) - ln y_baseline(s)          an effect of -0.01 is a loss lower by 1 %
    interval: mean(d) -+ t_{n-1} sd(d) / sqrt(n)        Student's, for the few pairs there are; exact for normal differences

Under no effect a difference of two runs is symmetric whatever the noise's skew, and heavy tails make the interval too wide, not too
narrow; a percentile bootstrap of three pairs, by contrast, is wrong a quarter of the time. Many contenders: p-values by Holm (1979),
intervals by Bonferroni. No difference: two one-sided tests (Schuirmann 1987), the interval at twice the error inside -+ margin.

Where the number of seeds was chosen after a pilot, sd and degrees of freedom stay the pilot's, while the mean is of all pairs (Stein
1945, doi:10.1214/aoms/1177731088): a pilot that shows too little noise stops early, and judged by its own seeds again it would be
wrong up to twice as often as stated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from ..core.errors import missing_extra

LEVEL = 0.05


@dataclass(frozen=True)
class Effect:
    """mean, sd: of the n differences of logs. low, high: simultaneous interval. inner_low, inner_high: the narrower one that must lie
    within the margin for `no difference`. p: of no effect; adjusted: by Holm. sign_flip: exact permutation p, from 6 pairs on."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    p: float
    adjusted: float
    sign_flip: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def student() -> Any:
    """scipy's special functions, with Student's t among them. Raises UserError naming the extra when scipy is missing."""
    try:
        from scipy import special
    except ImportError:
        raise missing_extra("scipy", "scaling") from None
    return special


def quantile(probability: float, freedom: int) -> float:
    """Student's t quantile."""
    return float(student().stdtrit(freedom, probability))


def differences(baseline: Mapping[int, float], contender: Mapping[int, float]) -> list[float]:
    """Differences of logs over the seeds that both have, in the order of seeds."""
    return [math.log(contender[seed]) - math.log(baseline[seed]) for seed in sorted(baseline.keys() & contender.keys())]


def effects(
    pairs: Mapping[str, Sequence[float]], level: float = LEVEL, compared: int | None = None, pilot: int | None = None
) -> dict[str, Effect]:
    """The effect of each contender from its differences, in the order of seeds. compared: how many contenders the race began with,
    stopped ones included. pilot: the first pairs, from which the number of seeds was chosen."""
    count = max(compared or 0, len(pairs), 1)
    p = {name: p_value(values, pilot) for name, values in pairs.items()}
    adjusted = holm(p, count)
    found = {}
    for name, values in pairs.items():
        low, high = interval(values, level / count, pilot)
        inner_low, inner_high = interval(values, 2 * level / count, pilot)
        found[name] = Effect(
            len(values),
            mean(values),
            deviation(values[:pilot]),
            low,
            high,
            inner_low,
            inner_high,
            p[name],
            adjusted[name],
            sign_flip(values) if len(values) >= 6 else None,
        )
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def deviation(values: Sequence[float]) -> float:
    """Standard deviation with n - 1; not a number for fewer than two values."""
    if len(values) < 2:
        return math.nan
    center = mean(values)
    return math.sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1))


def interval(values: Sequence[float], error: float, pilot: int | None = None) -> tuple[float, float]:
    """Two-sided Student interval that errs with probability `error`; unbounded for fewer than two values."""
    known = values[:pilot]
    if len(known) < 2:
        return -math.inf, math.inf
    reach = quantile(1 - error / 2, len(known) - 1) * deviation(known) / math.sqrt(len(values))
    return mean(values) - reach, mean(values) + reach


def p_value(values: Sequence[float], pilot: int | None = None) -> float:
    """Two-sided p of no effect; 1 for fewer than two values."""
    known = values[:pilot]
    if len(known) < 2:
        return 1.0
    center, spread = mean(values), deviation(known)
    if spread == 0:
        return 1.0 if center == 0 else 0.0
    return float(2 * student().stdtr(len(known) - 1, -abs(center) / spread * math.sqrt(len(values))))


def holm(p: Mapping[str, float], count: int) -> dict[str, float]:
    """Step-down adjusted p-values among `count` comparisons, of which those not given were already found."""
    adjusted, before = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: (p[name], name))):
        before = adjusted[name] = max(before, min(1.0, (count - rank) * p[name]))
    return adjusted


def sign_flip(values: Sequence[float]) -> float:
    """Exact p of symmetry around zero: the share of the 2^n sign patterns whose mean is at least as far out."""
    sums = _signs(len(values)) @ np.asarray(values)
    return float(np.mean(np.abs(sums) >= abs(sum(values)) * (1 - 1e-12)))


@cache
def _signs(count: int) -> np.ndarray:
    return np.array(list(product((1.0, -1.0), repeat=count)))


def word(effect: Effect, margin: float, level: float = LEVEL) -> str:
    """The verdict: better, worse (the metric is lower, higher), no difference (within the margin), not resolved."""
    if effect.n >= 2 and max(abs(effect.inner_low), abs(effect.inner_high)) <= math.log1p(margin):
        return "no difference"
    if effect.adjusted <= level and effect.mean != 0:
        return "better" if effect.mean < 0 else "worse"
    return "not resolved"
