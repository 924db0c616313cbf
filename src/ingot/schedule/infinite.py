r"""Warm-up, a cooldown to a constant that never ends, and an anneal when one is wanted.   Ibrahim et al. 2024, arXiv:2403.08763, section 7.

    f = u / w                                                       while u < w        (u: share of the budget spent)
    f = constant + (1 - constant) fall((u - w) / c)                 while u < w + c    (w, c, a: shares of warm-up, cooldown, anneal)
    f = constant                                                    while u < 1 - a
    f = constant (final / constant)^((u - (1 - a)) / a)             after

fall(x) = (1 + cos(pi x)) / 2, or the inverse square root (h(x) - h(1)) / (h(0) - h(1)) with h(x) = 1 / sqrt(1 + 10 x). With warm-up and
cooldown in absolute units and no anneal, the factor does not depend on the budget: new data continues at the constant without re-warming.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Interval

from ..core.parts import part
from ..core.progress import Moment
from ..core.quantities import Span
from ._shape import between, fall

Share = Annotated[float, Interval(gt=0, le=1)]


@part
def infinite(
    moment: Moment,
    *,
    warmup: Span = "1%",
    cooldown: Span = "30%",
    shape: Literal["cosine", "inverse_sqrt"] = "cosine",
    constant: Share = 0.55,
    anneal: Span = "0%",
    final: Share = 0.1,
) -> float:
    """Factor on the knob's value. constant: the factor that lasts. anneal: length of the exponential decay to `final` at the end."""
    if (through := moment.through(warmup)) < 1:
        return through
    warm = moment.share_from_start(warmup)
    cool = warm + moment.share_from_start(cooldown)
    start = max(min(cool, 1.0), 1 - moment.share(anneal))
    if anneal.value and moment.fraction >= start:
        return float(constant * (final / constant) ** between(moment.fraction, start, 1.0))
    x = between(moment.fraction, warm, cool)
    return constant + (1 - constant) * (fall(x, "cosine") if shape == "cosine" else _inverse_sqrt(x))


def _inverse_sqrt(x: float) -> float:
    end = 11**-0.5
    return float(((1 + 10 * x) ** -0.5 - end) / (1 - end))
