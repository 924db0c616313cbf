r"""Linear decay after a linear warm-up.   Defazio et al. 2023, arXiv:2310.07831; to zero: Bergsma et al. 2025, arXiv:2502.15938.

f = u / w                                             while u < w   (u: share of the budget spent, w: the warm-up's share)
f = final + (1 - final) (1 - (u - w) / (1 - w))       after
"""

from __future__ import annotations

from ..core.parts import Fraction, part
from ..core.progress import Moment
from ..core.quantities import Span
from ._shape import between, fall


@part
def linear(moment: Moment, *, warmup: Span = "1%", final: Fraction = 0.0) -> float:
    """Factor on the knob's value. final: the factor at the end of the budget."""
    if (through := moment.through(warmup)) < 1:
        return through
    return final + (1 - final) * fall(between(moment.fraction, moment.share_from_start(warmup), 1.0), "linear")
