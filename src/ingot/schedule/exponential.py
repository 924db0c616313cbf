r"""Exponential decay to a floor, as of a temperature.   Baevski et al. 2020 (wav2vec 2.0), arXiv:2006.11477, section 4.2.

f = final^(u / at)   while u < at   (u: share of the budget spent);   f = final   after
"""

from __future__ import annotations

from ..core.parts import Positive, part
from ..core.progress import Moment
from ..core.quantities import Quantity, Span

END = Quantity(1.0, "fraction")


@part
def exponential(moment: Moment, *, final: Positive[float] = 0.1, at: Span = END) -> float:
    """Factor on the knob's value. final: where it ends (above 1: it grows); at: how much is spent until then."""
    return float(final ** min(1.0, moment.through(at)))
