"""The shipped races on real text (novels and technical writing), one after the other, with their lines of results and claim cards.

    python benchmarks/race_real.py                      all of races/, the required ones first; each under an hour on two cores
    python benchmarks/race_real.py muon_adamw --dry-run
    python benchmarks/race_real.py wsd_cosine seeds=8   more seeds: only the missing runs are made

Written: results/NAME.jsonl, claims/METHOD.yaml, claims/index.html; trials, verdicts and pages under runs/races. A race that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import os
import time

from _machine import ROOT, text_folder

FIRST = ["muon_adamw", "wsd_cosine", "galore_adamw", "relora_dense", "stack_scratch", "upcycled_dense"]
# The share held out leaves a quarter of the budget of these 16 M tokens.
OWN = {"epochs4_unique": ["contenders.four_epochs.set.data.holdout=0.969"]}


def overrides(name: str) -> list[str]:
    """The texts in place of the Python library's."""
    files = [str(text_folder() / part / "train.jsonl.gz") for part in ("fiction", "technical")]
    return [f"set.data.train={{name: jsonl, paths: [{', '.join(files)}]}}", "set.data.holdout=0.02", *OWN.get(name, [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", metavar="RACE or key=value")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--jobs", type=int)
    arguments = parser.parse_intermixed_args()
    from ingot.race.claim import write_card, write_cards_page
    from ingot.race.conduct import conduct, forecast
    from ingot.race.spec import read_race

    os.chdir(ROOT)
    changes = [word for word in arguments.words if "=" in word]
    names = [word for word in arguments.words if "=" not in word] or FIRST + sorted(
        {path.stem for path in (ROOT / "races").glob("*.yaml")} - set(FIRST)
    )
    for name in names:
        race = read_race(ROOT / "races" / f"{name}.yaml", overrides(name) + changes)
        if arguments.dry_run:
            found = forecast(race, jobs=arguments.jobs)
            print(f"{name}: {found['trials']} trials, {found['done']} done, about {(found['seconds'] or 0) / 60:.0f} min", flush=True)
            continue
        began = time.monotonic()
        verdict = conduct(
            race, results=ROOT / "results", jobs=arguments.jobs, say=lambda line, name=name: print(f"{name} {line}", flush=True)
        )
        path, card = write_card(verdict["folder"], ROOT / "claims")
        print(
            verdict["sentence"],
            f"{path.relative_to(ROOT)}: {card['verdict']}",
            f"{(time.monotonic() - began) / 60:.1f} min",
            sep="\n",
            flush=True,
        )
        write_cards_page(ROOT / "claims")


if __name__ == "__main__":
    main()
