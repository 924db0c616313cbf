r"""Looking at a race, adding seeds and looking again: every look is kept, and later ones are judged more strictly.

A race judged at 5 % after 3, 5, 8 and 12 seeds, stopped where it pleases, is wrong in one race of ten. So the error is spent (Lan & DeMets
1983, doi:10.1093/biomet/70.3.659): a look may add only so many false verdicts to those that the looks before it had already brought.

    looks: 1 (not said)   the first look has all 5 %; whatever is looked at later shares another 0.8 %, each look half of what is left
    looks: K              each of K looks has 5 % / K; looks beyond them share the 0.8 % likewise

The level of a look is the largest p at which no more than its error is new: P(p_k <= level_k, p_j > level_j for all j < k) = error_k, with
p those of Student's tests on the same growing sample. It does not depend on the noise, so it is drawn once (200,000 samples, a fixed seed);
for m contenders each has error / m, and the stricter of 1 and m of them without effect counts. Looks at a pilot's recommendation keep the
pilot's noise, which is another test: they pay in full, and later looks have no credit for them.

Early stopping spends its tenth of the first look's error in whatever race comes later as well: half a percent at most, on one side.

What was looked at lies beside the trials, in <races>/looks.jsonl, known by the first pair of trials of each contender: neither another
name nor another number of seeds makes a race a new one; other recipes, data, budgets or first seeds do.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..core.recipe import digest
from .statistics import LEVEL, student
from .trials import Trial, read_lines

FURTHER = 0.008  # false verdicts that all looks beyond those planned may add together
DRAWS = 200_000
FILE = "looks.jsonl"


@dataclass(frozen=True)
class Look:
    """seeds: pairs that were judged. error: false verdicts it may add. level: at which it judges. piloted: seeds followed a pilot."""

    seeds: int
    error: float
    level: float
    piloted: bool = False


@dataclass(frozen=True)
class Standing:
    """The look to be judged now, and those before it in the order they were taken."""

    now: Look
    earlier: tuple[Look, ...] = ()

    @property
    def before(self) -> tuple[int, ...]:
        """The numbers of seeds that were shown already."""
        return tuple(look.seeds for look in self.earlier)


def first(seeds: int, planned: int = 1, *, piloted: bool = False) -> Standing:
    """The first look of all."""
    return Standing(Look(seeds, LEVEL / planned, LEVEL / planned, piloted))


def share(before: Sequence[Look], planned: int) -> float:
    """The error of the next look: an even part of what is left for those planned, else half of what is left for all others."""
    spent = sum(look.error for look in before)
    if len(before) < planned and LEVEL - spent > 1e-9:
        return (LEVEL - spent) / (planned - len(before))
    return (LEVEL + FURTHER - max(spent, LEVEL)) / 2


def following(before: Sequence[Look], seeds: int, *, planned: int = 1, contenders: int = 1, piloted: bool = False) -> Look:
    """The look at so many seeds after those before it."""
    error = share(before, planned)
    credit = () if piloted else tuple((look.seeds, look.level) for look in before if not look.piloted and look.seeds >= 2)
    level = error if seeds < 2 else min(_level(credit, seeds, error, count) for count in sorted({1, contenders}))
    return Look(seeds, error, min(LEVEL, max(error, level)), piloted)


@cache
def _level(before: tuple[tuple[int, float], ...], seeds: int, error: float, contenders: int) -> float:
    """The level at which a look with this error judges, for one of so many contenders without effect."""
    if not before:
        return error
    p = _nested_p(tuple(sorted({count for count, _ in before} | {seeds})))
    quiet = np.logical_and.reduce([p[count] > level / contenders for count, level in before])
    ordered = np.sort(p[seeds][quiet])
    return float(ordered[min(int(error / contenders * DRAWS), len(ordered) - 1)]) * contenders


@cache
def _nested_p(counts: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Two-sided p of Student's test after each count of the same growing samples without effect, (DRAWS,) each."""
    draw, special = np.random.default_rng(0), student()
    total, squares, before, found = np.zeros(DRAWS), np.zeros(DRAWS), 0, {}
    for count in counts:
        fresh = count - before
        added = draw.normal(0.0, np.sqrt(fresh), DRAWS)
        total += added
        squares += added**2 / fresh + (draw.chisquare(fresh - 1, DRAWS) if fresh > 1 else 0.0)
        variance = np.maximum(squares - total**2 / count, 1e-300) / (count - 1)
        found[count] = 2 * special.stdtr(count - 1, -np.abs(total) / np.sqrt(count * variance))
        before = count
    return found


def pair_keys(trials: Mapping[str, Mapping[int, Trial]], baseline: str, contenders: Sequence[str]) -> dict[str, str]:
    """By contender, what its looks are known by: its first pair of trials."""
    return {arm: digest([trials[baseline][0].key, trials[arm][0].key])[:20] for arm in contenders if trials.get(arm) and trials[baseline]}


def looks_at(folder: Path, key: str) -> list[Look]:
    """The looks at a pair so far, in the order they were taken."""
    return [
        Look(line["seeds"], line["error"], line["level"], line["piloted"])
        for line in read_lines(folder / FILE)
        if key in line.get("pairs", ())
    ]


def take(folder: Path, keys: Mapping[str, str], seeds: int, *, planned: int = 1, piloted: bool = False) -> Standing:
    """Where a race stands that is looked at now: the same look as before where these seeds were shown already, else a new one, which is
    written down before anything is shown. Arms that were looked at unequally often are judged as the one seen most."""
    histories = {arm: looks_at(folder, key) for arm, key in keys.items()}
    known = [[place for place, look in enumerate(looks) if look.seeds == seeds] for looks in histories.values()]
    longest = max(histories.values(), key=lambda looks: sum(look.error for look in looks), default=[])
    if known and all(known):
        level = min(looks[places[0]].level for looks, places in zip(histories.values(), known))
        place, looks = max(((places[0], looks) for looks, places in zip(histories.values(), known)), key=lambda one: one[0])
        return Standing(Look(seeds, looks[place].error, level, looks[place].piloted), tuple(looks[:place]))
    now = following(longest, seeds, planned=planned, contenders=max(1, len(keys)), piloted=piloted)
    _write(folder, keys, now)
    return Standing(now, tuple(longest))


def _write(folder: Path, keys: Mapping[str, str], look: Look) -> None:
    line = {"time": time.time(), "pairs": sorted(set(keys.values()))} | {
        name: getattr(look, name) for name in ("seeds", "error", "level", "piloted")
    }
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)
