r"""Cosine decay after a linear warm-up.   Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts.

    f = u / w                                             while u < w   (u: share of the budget spent, w: the warm-up's share)
    f = final + (1 - final) (1 + cos(pi (u - w) / (1 - w))) / 2     after
"""

from __future__ import annotations

import math

from ..core.parts import Fraction, part
from ..core.progress import Moment
from ..core.quantities import Quantity, Span


@part
def cosine(moment: Moment, *, warmup: Span = "1%", final: Fraction = 0.1) -> float:
    """Factor on the knob's value. final: the factor at the end of the budget."""
    if (through := moment.through(warmup)) < 1:
        return through
    start = moment.share(warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * (moment.fraction - start) / (1 - start))) / 2
