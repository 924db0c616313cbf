r"""Cosine decay that falls to zero and warms up again after every restart.   Lialin et al. 2023, arXiv:2307.05695, section 3 and figure 2.

    f = min(1, u / w)                                                    while u < w   (u: share of the budget spent, w: the warm-up's)
    f = min(1, v / r) (final + (1 - final) (1 + cos(pi (u - w) / (1 - w))) / 2)   after;  v = u mod every,  r: `rewarm`

The first interval has no warm-up but w. For the hook ``relora`` with the same interval: a step that begins with new factors has a rate
near zero.

DEPARTS: the warm-up after a restart climbs to the cosine where it is, not to the cosine's value at the restart, so the curve is joined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..core.errors import UserError
from ..core.parts import Fraction, part
from ..core.progress import Moment
from ..core.quantities import Span
from ._shape import between, fall


@part
def jagged(moment: Moment, *, every: Span = "25%", warmup: Span = "1%", rewarm: Span = "1%", final: Fraction = 0.1) -> float:
    """Factor on the knob's value. every: from restart to restart. rewarm: length of the warm-up after each. final: the factor at the end.

    Raises UserError for an empty interval, which would restart without end.
    """
    for message in _check({"every": every}, {}):
        raise UserError(message)
    if (through := moment.through(warmup)) < 1:
        return through
    envelope = final + (1 - final) * fall(between(moment.fraction, moment.share_from_start(warmup), 1.0), "cosine")
    intervals = moment.through(every)
    passed = math.floor(intervals + 1e-9)
    if passed < 1 or moment.fraction >= 1:  # a restart at the very end begins nothing
        return envelope
    since = max(0.0, intervals - passed) * moment.share(every)
    rewarming = moment.share(rewarm)
    return envelope * min(1.0, since / rewarming) if rewarming else envelope


def _check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
    if not knobs["every"].value:
        yield "jagged needs an interval above 0 in every: it is what is spent from restart to restart"


jagged.check = _check  # type: ignore[attr-defined]
jagged.jumps = True  # type: ignore[attr-defined]
