"""Whether trials were run side by side: only then does their wall-clock compare methods, and not what else the machine did.

A baseline that another race ran last night at half the load is used again, since its losses are the same; its seconds are not. A worker
notes in each trial's attempts when it began and ended, for which conduct of a race, and on which machine (a hash). Trials of one conduct
alternate, seed by seed through all arms. Trials from before conducts were noted count as side by side where they overlap or follow one
another closely. A trial that was killed and went on has been through two loads and compares with none.
"""

from __future__ import annotations

import hashlib
import platform
import resource
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Span:
    """A trial that ran in one go. began, ended: seconds since 1970. conduct, host: None where they were not noted."""

    began: float
    ended: float
    conduct: str | None = None
    host: str | None = None


def span(attempts: Sequence[Mapping[str, Any]]) -> Span | None:
    """When a trial ran, from its attempts; None when it was resumed, has not ended, or was not noted at all."""
    began: Mapping[str, Any] | None = None
    for entry in attempts:
        if entry.get("event") == "start":
            began = entry
        elif entry.get("event") == "resumed":
            began = None
        elif entry.get("event") == "end" and began is not None:
            return Span(float(began["time"]), float(entry["time"]), began.get("conduct"), began.get("host"))
    return None


def together(ours: Span | None, theirs: Span | None, arms: int = 2) -> bool:
    """Whether two trials of one seed ran side by side in a race of so many arms."""
    if ours is None or theirs is None or ours.host != theirs.host or ours.conduct != theirs.conduct:
        return False
    if ours.conduct is not None:
        return True
    gap = max(ours.began, theirs.began) - min(ours.ended, theirs.ended)
    return gap < (arms - 1) * max(ours.ended - ours.began, theirs.ended - theirs.began)


def all_together(pairs: Iterable[tuple[Span | None, Span | None]], arms: int) -> bool:
    """Whether there are pairs, and every one ran side by side."""
    found = [together(ours, theirs, arms) for ours, theirs in pairs]
    return bool(found) and all(found)


def host() -> str:
    """A few digits that tell machines apart without naming them."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def processor_seconds() -> float:
    """Processor time of this process, all its threads, and the children it has waited for. Load of the machine does not enter."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
