r"""Cosine decay after a linear warm-up.   Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts.

f = u / w                                             while u < w   (u: share of the budget spent, w: the warm-up's share)
f = final + (1 - final) (1 + cos(pi (u - w) / (1 - w))) / 2     after
"""

from __future__ import annotations

from ..core.parts import Fraction, part
from ..core.progress import Moment
from ..core.quantities import Span
from ._shape import between, fall


@part
def cosine(moment: Moment, *, warmup: Span = "1%", final: Fraction = 0.1) -> float:
    """Factor on the knob's value. final: the factor at the end of the budget."""
    if (through := moment.through(warmup)) < 1:
        return through
    return final + (1 - final) * fall(between(moment.fraction, moment.share_from_start(warmup), 1.0), "cosine")
