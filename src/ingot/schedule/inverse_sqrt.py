r"""Inverse square root decay after a linear warm-up.   Vaswani et al. 2017, arXiv:1706.03762, eq. 3, scaled to a peak of 1.

    f = min(u / w, sqrt(w / u))      u: share of the budget spent, w: the warm-up's share

With a warm-up in absolute units the factor does not depend on the budget: a run can be extended from any checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.errors import UserError
from ..core.parts import part
from ..core.progress import Moment
from ..core.quantities import Span


@part
def inverse_sqrt(moment: Moment, *, warmup: Span = "1%") -> float:
    """Factor on the knob's value. Raises UserError for an empty warm-up, which would leave the decay without a scale."""
    for message in _check({"warmup": warmup}, {}):
        raise UserError(message)
    through = moment.through(warmup)
    return through if through < 1 else through**-0.5


def _check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
    if not knobs["warmup"].value:
        yield "inverse_sqrt needs a warmup above 0: the decay is measured in warm-ups"


inverse_sqrt.check = _check  # type: ignore[attr-defined]
