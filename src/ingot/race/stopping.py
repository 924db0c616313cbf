"""Stopping a losing arm before all its seeds are run, without favoring those that go on.

Looks are taken after whole seeds, never inside a run (a learning rate that has not decayed cannot be compared). Only an arm that is
significantly worse stops. A tenth of the error allowed is spent on the looks, evenly, and the rest kept for the end; the number of
contenders in the correction stays that of the start, so that survivors gain nothing from those that dropped out. A stopped arm keeps
its place in the report, judged by the seeds up to the look that stopped it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .statistics import LEVEL, mean, p_value

FIRST_LOOK = 3
SPENT_ON_LOOKS = 0.1


def looks(seeds: int) -> range:
    """After how many seeds a look is taken."""
    return range(FIRST_LOOK, seeds)


def stopped(differences: Sequence[float], seeds: int, *, contenders: int, level: float = LEVEL) -> int | None:
    """The number of seeds after which an arm with these differences (in the order of seeds, perhaps not all there yet) stops, or None."""
    allowed = SPENT_ON_LOOKS * level / max(1, len(looks(seeds))) / contenders
    for look in looks(seeds):
        known = differences[:look]
        if len(known) == look and mean(known) > 0 and p_value(known) <= allowed:
            return look
    return None


def level_at_end(level: float, early_stopping: bool) -> float:
    """The error that is left for the final test."""
    return level * (1 - SPENT_ON_LOOKS) if early_stopping else level
