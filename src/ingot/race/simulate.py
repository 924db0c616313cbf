"""Simulated races with a known truth: how often the verdicts are false, and how often a planted effect is found.

A seed moves all arms of a race together (data order, initialization) by `shared`, and each run by `own`, both in log loss. The
shapes of the noise have mean 0 and standard deviation 1: normal; heavy (Student's t with 3 degrees of freedom); skewed (a shifted
exponential, as when now and then a run ends worse).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .looks import Look, following
from .recommend import MOST, seeds_for
from .statistics import LEVEL, deviation, effects, word
from .stopping import stopped

Draw = Callable[[np.random.Generator, Any], np.ndarray]
SHAPES: dict[str, Draw] = {
    "normal": lambda draw, size: np.asarray(draw.standard_normal(size)),
    "heavy": lambda draw, size: np.asarray(draw.standard_t(3, size)) / np.sqrt(3.0),
    "skewed": lambda draw, size: np.asarray(draw.standard_exponential(size)) - 1.0,
}


def runs(draw: np.random.Generator, shape: str, arms: int, seeds: int, *, shared: float, own: float) -> np.ndarray:
    """Log losses without any effect, (arms, seeds)."""
    noise = SHAPES[shape]
    return shared * noise(draw, (1, seeds)) + own * noise(draw, (arms, seeds))


def verdicts(logs: np.ndarray, *, margin: float, level: float = LEVEL, pilot: int | None = None) -> list[str]:
    """The words for rows 1.. against row 0."""
    found = effects({str(arm): (logs[arm] - logs[0]).tolist() for arm in range(1, len(logs))}, level, pilot=pilot)
    return [word(effect, margin, level) for effect in found.values()]


def false_verdicts(
    *, races: int, seeds: int, contenders: int, shape: str, own: float = 0.004, shared: float = 0.01, margin: float = 0.005, seed: int = 0
) -> dict[str, float]:
    """Shares of races without any effect: with at least one false verdict; and of verdicts by word."""
    draw, wrong, words = np.random.default_rng(seed), 0, Counter[str]()
    for _ in range(races):
        found = verdicts(runs(draw, shape, contenders + 1, seeds, shared=shared, own=own), margin=margin)
        words.update(found)
        wrong += any(one in ("better", "worse") for one in found)
    return {"false": wrong / races} | {name: count / races / contenders for name, count in sorted(words.items())}


def power_at_recommended(
    *,
    races: int,
    pilot: int,
    shape: str,
    effect: float = 0.01,
    own: float = 0.004,
    shared: float = 0.01,
    contenders: int = 1,
    seed: int = 0,
) -> dict[str, float]:
    """A race with ``seeds: auto``: a pilot gives the noise, the recommended seeds are run, the pilot's among them; one arm has the effect.

    agreed: share of pilots for which at most 12 seeds are recommended. Of the races that follow: found, and false (verdicts where
    there is no effect); all_false: false verdicts in all races, those that end with the pilot among them.
    """
    draw, agreed, found, wrong, wrong_pilots, seeds = np.random.default_rng(seed), 0, 0, 0, 0, []
    for _ in range(races):
        logs = runs(draw, shape, contenders + 1, MOST, shared=shared, own=own)
        sds = [deviation((logs[arm] - logs[0])[:pilot].tolist()) for arm in range(1, contenders + 1)]
        wanted = seeds_for(effect, max(sds), pilot, contenders=contenders)
        if wanted is None:
            wrong_pilots += any(one in ("better", "worse") for one in verdicts(logs[:, :pilot], margin=effect / 2))
            continue
        wanted, agreed = max(wanted, pilot), agreed + 1
        seeds.append(wanted)
        wrong += any(one in ("better", "worse") for one in verdicts(logs[:, :wanted], margin=effect / 2, pilot=pilot))
        logs[1] += np.log1p(-effect)
        found += verdicts(logs[:, :wanted], margin=effect / 2, pilot=pilot)[0] == "better"
    return {
        "agreed": agreed / races,
        "found": found / max(1, agreed),
        "false": wrong / max(1, agreed),
        "all_false": (wrong + wrong_pilots) / races,
        "mean_seeds": float(np.mean(seeds)) if seeds else 0.0,
    }


def repeated_looks(
    *,
    races: int,
    seeds: Sequence[int],
    contenders: int,
    shape: str,
    planned: int = 1,
    corrected: bool = True,
    effect: float = 0.01,
    own: float = 0.004,
    shared: float = 0.01,
    margin: float = 0.005,
    seed: int = 0,
) -> dict[str, float]:
    """Races looked at again and again with more seeds. corrected: as races judge; else every look at 5 %.

    false: share of races without any effect in which some look, the last or one before, gave a false verdict. found: share of races in
    which some look found the first contender's effect.
    """
    draw, wrong, found = np.random.default_rng(seed), 0, 0
    taken: list[Look] = []
    for count in seeds:
        taken.append(following(taken, count, planned=planned, contenders=contenders))
    levels = [look.level if corrected else LEVEL for look in taken]
    for _ in range(races):
        logs = runs(draw, shape, contenders + 1, max(seeds), shared=shared, own=own)
        shown = [one for count, level in zip(seeds, levels) for one in verdicts(logs[:, :count], margin=margin, level=level)]
        wrong += any(one in ("better", "worse") for one in shown)
        logs[1] += np.log1p(-effect)
        found += any(verdicts(logs[:, :count], margin=margin, level=level)[0] == "better" for count, level in zip(seeds, levels))
    return {"false": wrong / races, "found": found / races}


def stopping_bias(
    *, races: int, seeds: int, effects_true: list[float], shape: str = "normal", own: float = 0.004, shared: float = 0.01, seed: int = 0
) -> dict[str, Any]:
    """With early stopping: mean error of each contender's estimate over the races it survived, share stopped, and false verdicts."""
    draw = np.random.default_rng(seed)
    survived: list[list[float]] = [[] for _ in effects_true]
    wrong = 0
    for _ in range(races):
        logs = runs(draw, shape, len(effects_true) + 1, seeds, shared=shared, own=own)
        logs[1:] += np.log1p(np.array(effects_true))[:, None]
        pairs = {str(arm): (logs[arm + 1] - logs[0]).tolist() for arm in range(len(effects_true))}
        out = {name: stopped(values, seeds, contenders=len(pairs)) for name, values in pairs.items()}
        judged = effects({name: values for name, values in pairs.items() if out[name] is None}, 0.9 * LEVEL, compared=len(pairs))
        words = {name: word(effect, 0.0, 0.9 * LEVEL) for name, effect in judged.items()} | {
            name: "worse" for name, at in out.items() if at is not None
        }
        wrong += any(words[str(arm)] in ("better", "worse") for arm, effect in enumerate(effects_true) if effect == 0)
        for name in judged:
            survived[int(name)].append(judged[name].mean - float(np.log1p(effects_true[int(name)])))
    return {
        "false": wrong / races,
        "bias": [float(np.mean(errors)) if errors else 0.0 for errors in survived],
        "stopped": [1 - len(errors) / races for errors in survived],
    }
