r"""Constant, after an optional linear warm-up.

    f = u / w   while u < w   (u: share of the budget spent, w: the warm-up's share);   f = 1   after

No paper: it is what the others are compared with.
"""

from __future__ import annotations

from ..core.parts import part
from ..core.progress import Moment
from ..core.quantities import Span


@part
def constant(moment: Moment, *, warmup: Span = "0%") -> float:
    """Factor on the knob's value."""
    return min(1.0, moment.through(warmup))
