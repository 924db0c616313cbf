r"""How many seeds resolve an effect of a wanted size, from the noise of a pilot of few seeds.

    n >= (t_{1-alpha/2, f} + t_{power, f})^2 s^2 / delta^2        f = pilot pairs - 1

The quantiles are those of the pilot's few degrees of freedom (Stein 1945, doi:10.1214/aoms/1177731088), so that the power holds on
average over pilots that show the noise too small; the normal quantiles of the usual formula would not.
"""

from __future__ import annotations

import math

from .statistics import LEVEL, quantile

MOST = 12
LEAST = 3


def seeds_for(
    resolution: float, sd: float, pilot: int, *, contenders: int = 1, level: float = LEVEL, power: float = 0.8, most: int = MOST
) -> int | None:
    """Pairs needed to find an effect of `resolution` (0.01 is 1 %) with the power; None when that is more than `most`, or unknown."""
    if pilot < 2 or not math.isfinite(sd):
        return None
    reach = quantile(1 - level / (2 * contenders), pilot - 1) + quantile(power, pilot - 1)
    wanted = max(LEAST, math.ceil((reach * sd / math.log1p(resolution)) ** 2))
    return wanted if wanted <= most else None


def resolution_at(
    seeds: int, sd: float, pilot: int | None = None, *, contenders: int = 1, level: float = LEVEL, power: float = 0.8
) -> float:
    """The effect that so many pairs find with the power, as a share: 0.01 is 1 %. pilot: the pairs that sd comes from, all when not
    given."""
    known = min(seeds, pilot or seeds)
    if known < 2 or not math.isfinite(sd):
        return math.inf
    return math.expm1((quantile(1 - level / (2 * contenders), known - 1) + quantile(power, known - 1)) * sd / math.sqrt(seeds))
