r"""Warm-up, a constant stretch, then a decay to the end.   Hu et al. 2024, arXiv:2404.06395; the shape 1 - sqrt: Hägele et al. 2024,
arXiv:2405.18392, eq. 2.

    f = u / w                                       while u < w   (u: share of the budget spent, w, d: shares of warm-up and decay)
    f = 1                                           while u < 1 - d
    f = final + (1 - final) fall((u - (1 - d)) / d)   after;   fall(x) = 1 - x, 1 - sqrt(x), (1 + cos(pi x)) / 2 or (100^-x - 0.01) / 0.99

With warm-up and decay in absolute units (steps, tokens), a longer budget gives the same factors until the shorter one's decay begins:
a run can be extended from a checkpoint of its constant stretch. A decay that would begin within the warm-up begins after it.

DEPARTS: the exponential shape is shifted to reach `final`; Hu et al. let a bare exponential stop where it is.
"""

from __future__ import annotations

from ..core.parts import Fraction, part
from ..core.progress import Moment
from ..core.quantities import Span
from ._shape import Shape, between, fall


@part
def warmup_stable_decay(moment: Moment, *, warmup: Span = "1%", decay: Span = "20%", shape: Shape = "sqrt", final: Fraction = 0.0) -> float:
    """Factor on the knob's value. decay: length of the decay at the end. final: the factor at the end of the budget."""
    if (through := moment.through(warmup)) < 1:
        return through
    start = max(moment.share_from_start(warmup), 1 - moment.share(decay))
    if moment.fraction < start:
        return 1.0
    return final + (1 - final) * fall(between(moment.fraction, start, 1.0), shape)
