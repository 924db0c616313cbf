r"""One cycle: up to the peak, then down far below the start.   Smith & Topin 2018, arXiv:1708.07120; Smith 2018, arXiv:1803.09820.

    f = initial + (1 - initial) (1 - fall(u / p))              while u < p   (u: share of the budget spent, p: the peak's)
    f = final + (1 - final) fall((u - p) / (1 - p))            after;   fall(x) = (1 + cos(pi x)) / 2, or 1 - x

DEPARTS: Smith's downward half returns to `initial` and a short third phase goes below it; as in torch's OneCycleLR the second phase
goes all the way.
"""

from __future__ import annotations

from typing import Literal

from ..core.parts import Fraction, part
from ..core.progress import Moment
from ..core.quantities import Span
from ._shape import between, fall


@part
def one_cycle(
    moment: Moment, *, peak: Span = "30%", initial: Fraction = 0.04, final: Fraction = 4e-6, shape: Literal["linear", "cosine"] = "cosine"
) -> float:
    """Factor on the knob's value. peak: when the factor is 1. initial, final: factors at both ends."""
    if (through := moment.through(peak)) < 1:
        return initial + (1 - initial) * (1 - fall(through, shape))
    return final + (1 - final) * fall(between(moment.fraction, moment.share_from_start(peak), 1.0), shape)
