r"""Constant with sudden drops, after a linear warm-up.   DeepSeek-AI 2024, arXiv:2401.02954: to 31.6 % at 80 %, to 10 % at 90 %.

f = u / w   while u < w   (u: share of the budget spent, w: the warm-up's share);   f = drop^n   after n of the points in `at`
"""

from __future__ import annotations

from ..core.parts import Fraction, part
from ..core.progress import Moment
from ..core.quantities import Quantity, Span

POINTS = [Quantity(0.8, "fraction"), Quantity(0.9, "fraction")]


@part
def multi_step(moment: Moment, *, warmup: Span = "1%", at: list[Span] = POINTS, drop: Fraction = 0.316) -> float:
    """Factor on the knob's value. at: how much is spent at each drop. drop: factor of each."""
    if (through := moment.through(warmup)) < 1:
        return through
    return float(drop ** sum(moment.through(point) >= 1 for point in at))


multi_step.jumps = True  # type: ignore[attr-defined]
