"""How honest the verdicts of races are: simulated races of known truth, and real tiny races of a baseline against itself.

    python benchmarks/race_statistics.py            simulations, some minutes
    python benchmarks/race_statistics.py --real     also 20 real races, 120 trials of a fraction of a second

False verdicts without an effect at 3, 5 and 10 seeds; the planted effect of 1 % at the seed count that race recommends; what early
stopping does to survivors; races looked at again after 3, 5, 8 and 12 seeds; a percentile bootstrap of as many pairs, for comparison.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from _machine import write

RACES = 2000
LOOKS = ((3, 5, 8, 12), (4, 8))


def simulated() -> dict[str, Any]:
    """2,000 races for every setting."""
    import numpy as np

    from ingot.race.simulate import SHAPES, false_verdicts, power_at_recommended, repeated_looks, runs, stopping_bias

    without = [
        {"shape": shape, "seeds": seeds, "contenders": contenders}
        | false_verdicts(races=RACES, seeds=seeds, contenders=contenders, shape=shape, seed=seeds)
        for shape in SHAPES
        for seeds in (3, 5, 10)
        for contenders in (1, 3)
    ]
    planted = [
        {"shape": shape, "pilot": pilot, "contenders": contenders, "noise_of_a_run": own}
        | power_at_recommended(races=RACES, pilot=pilot, shape=shape, own=own, contenders=contenders)
        for shape in SHAPES
        for pilot in (3, 5)
        for own in (0.003, 0.004, 0.005)
        for contenders in (1, 3)
    ]
    looked = [
        {"shape": shape, "seeds": list(seeds), "contenders": contenders, "planned": planned, "corrected": corrected}
        | repeated_looks(
            races=RACES, seeds=seeds, contenders=contenders, shape=shape, planned=planned, corrected=corrected, seed=len(seeds)
        )
        for shape in SHAPES
        for seeds in LOOKS
        for contenders in (1, 3)
        for planned, corrected in ((1, True), (len(seeds), True), (1, False))
    ]
    draw, bootstrap = np.random.default_rng(0), {}
    for seeds in (3, 5, 10):
        wrong = 0
        for _ in range(RACES):
            logs = runs(draw, "normal", 2, seeds, shared=0.01, own=0.004)
            means = draw.choice(logs[1] - logs[0], (1000, seeds)).mean(1)
            wrong += not np.quantile(means, 0.025) <= 0 <= np.quantile(means, 0.975)
        bootstrap[str(seeds)] = wrong / RACES
    return {
        "races": RACES,
        "without_effect": without,
        "worst_false": max(one["false"] for one in without),
        "planted_1_percent": planted,
        "worst_power": min(one["found"] for one in planted),
        "worst_false_after_pilot": max(one["all_false"] for one in planted),
        "repeated_looks": looked,
        "worst_false_after_looks": max(one["false"] for one in looked if one["corrected"]),
        "early_stopping": stopping_bias(races=RACES, seeds=6, effects_true=[0.0, 0.03, 0.0]),
        "percentile_bootstrap_false": bootstrap,
    }


def real(races: int = 20, seeds: int = 3) -> dict[str, Any]:
    """Races of a baseline against itself with other seeds."""
    from race_kill import files

    from ingot.race.conduct import conduct
    from ingot.race.pool import Processes
    from ingot.race.spec import read_race

    here, words, pool = os.getcwd(), [], Processes(2)
    with tempfile.TemporaryDirectory() as place:
        folder = files(Path(place) / "race")
        (folder / "race.yaml").write_text(
            "baseline: {recipe: base.yaml}\ncontenders: {same: {shares: [1.0]}}\nbudget: 5120 tokens\ntuning: {trials: 1}\nevaluations: 2\n"
        )
        os.chdir(folder)
        try:
            for number in range(races):
                race = read_race("race.yaml", [f"name=race{number}", f"seeds={seeds}", f"first_seed={100 * number}"])
                words.append(
                    conduct(race, folder=folder / "races", results=None, pool=pool, say=lambda line: None)["arms"]["control"]["verdict"]
                )
                print(f"race {number}: {words[-1]}", flush=True)
        finally:
            pool.close()
            os.chdir(here)
    return {
        "races": races,
        "seeds": seeds,
        "false": sum(one in ("better", "worse") for one in words),
        "verdicts": {one: words.count(one) for one in sorted(set(words))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()
    write("race_statistics", simulated() | ({"real_races_without_effect": real()} if arguments.real else {}))


if __name__ == "__main__":
    main()
